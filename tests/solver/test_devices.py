"""Which device is chosen, and what happens where it does not work. No GPU takes part: torch is told of one."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch

from itk_pdd.errors import RegistrationError, RegistrationWarning
from itk_pdd.solver import devices


class Gpu:
    device = "cuda:0"


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**33))


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_names(two_gpus):
    names = ("auto", "cpu", "cuda", "cuda:0", torch.device("cuda:1"))
    assert [devices.checked_device(n) for n in names] == ["cuda:0", "cpu", "cuda:1", "cuda:0", "cuda:1"]


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "cuda:-1", "cpu:0", "auto:1", "", "cuda:"])
def test_other_names_are_refused(two_gpus, name):
    with pytest.raises(RegistrationError, match="expected 'auto', 'cpu', 'cuda'"):
        devices.checked_device(name)


def test_a_gpu_that_is_not_there(two_gpus):
    with pytest.raises(RegistrationError, match="'cuda:2', but this machine has only 2"):
        devices.checked_device("cuda:2")


def test_no_gpu(no_gpu):
    assert devices.checked_device("auto") == "cpu"
    assert devices.operations("auto").device == "cpu"
    with pytest.raises(RegistrationError, match="no CUDA device"):
        devices.checked_device("cuda")


def test_a_gpu_that_does_not_work(two_gpus, monkeypatch):
    def broken(device):
        raise OSError("no C compiler")

    monkeypatch.setattr(devices, "_device_operations", broken)
    with pytest.warns(RegistrationWarning, match=r"cuda:0 does not work here \(OSError: no C compiler\)"):
        assert devices.on_device("auto", lambda chosen: chosen.device) == "cpu"
    with pytest.raises(RegistrationError, match=r"no C compiler.*use 'cpu'"):
        devices.on_device("cuda", lambda chosen: chosen.device)


def test_too_little_memory(two_gpus, monkeypatch):
    monkeypatch.setattr(devices, "_device_operations", lambda device: Gpu)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def compute(chosen):
        if chosen.device != "cpu":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return "done"

    with pytest.warns(RegistrationWarning, match=r"8\.0 GB of cuda:0 are not enough .* computing on the CPU"):
        assert devices.on_device("auto", compute) == "done"
    with pytest.raises(RegistrationError, match="spacing"):
        devices.on_device("cuda:0", compute)


def test_other_errors_are_not_the_memory(two_gpus, monkeypatch):
    monkeypatch.setattr(devices, "_device_operations", lambda device: Gpu)

    def compute(chosen):
        raise KeyError("stopped by an observer")

    with pytest.raises(KeyError):
        devices.on_device("auto", compute)


@pytest.fixture
def unloaded(monkeypatch, tmp_path):
    """A process that has not imported torch, whose version file and driver are as the test says."""
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    origin = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: origin)
    monkeypatch.setattr(sys, "platform", "linux")

    def prepare(version: str, *, driver: bool) -> None:
        (tmp_path / "version.py").write_text(version)

        def library(name):
            if not driver:
                raise OSError("libcuda.so.1: cannot open shared object file")

        monkeypatch.setattr(ctypes, "CDLL", library)

    return prepare


BUILDS = {
    "cpu": "__version__ = '2.6.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n",
    "cuda": "__version__ = '2.6.0'\ncuda: Optional[str] = '12.4'\nhip: Optional[str] = None\n",
    "rocm": "__version__ = '2.6.0'\ncuda = None\nhip = '6.2'\n",
    "unknown": "",
}


@pytest.mark.parametrize("driver", [False, True])
@pytest.mark.parametrize("build", BUILDS)
def test_torch_is_asked_only_where_it_could_find_a_gpu(unloaded, build, driver):
    unloaded(BUILDS[build], driver=driver)
    assert devices._may_have_gpu() == (driver and build != "cpu")


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_are_none(unloaded, monkeypatch, hidden):
    unloaded(BUILDS["cuda"], driver=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert not devices._may_have_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert devices._may_have_gpu()
