"""Several processes that train one network together, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn

__all__ = ["Processes", "processes"]


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int = 0  # number of this process; 0 writes the files
    count: int = 1  # number of processes
    local: int = 0  # number of this process on its machine, which is that of its GPU

    def wrap(self, network: nn.Module, *, unused: bool = False) -> nn.Module:
        """The network, its gradients averaged over the processes."""
        if self.count == 1:
            return network
        return nn.parallel.DistributedDataParallel(network, find_unused_parameters=unused)

    def mean(self, value: float) -> float:
        """Mean of a number over the processes, the same in each of them."""
        if self.count == 1:
            return value
        device = f"cuda:{self.local}" if distributed.get_backend() == "nccl" else "cpu"
        tensor = torch.tensor(value, dtype=torch.float64, device=device)
        distributed.all_reduce(tensor)
        return float(tensor) / self.count

    def wait(self) -> None:
        """Let all processes come to this point."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, by gloo or, on "cuda", nccl; this one alone without it."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in os.environ:
        yield Processes()
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda":
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Processes(int(os.environ["RANK"]), count, local)
    finally:
        distributed.destroy_process_group()
