"""Length and learning rate of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass

from itk_pdd.errors import RegistrationError

__all__ = ["TrainingSettings", "learning_rate"]


@dataclass(frozen=True)
class TrainingSettings:
    """Hold the length and the learning rate of a training."""

    # Steps; the learning rate rises over the first 5 % and then falls to zero along a cosine, so that a training of
    # half the length is not the first half of this one. A finished training is extended by a larger number: the
    # learning rate rises and falls once more over what is added.
    iterations: int = 1600
    batch: int = 2  # crops per step and per process
    rate: float = 2e-3  # largest learning rate of AdamW; a larger one learns faster, until it diverges
    decay: float = 1e-2  # weight decay of AdamW
    average: float = 0.995  # decay of the moving average of the weights, which is what is evaluated and kept
    clip: float = 1.0  # largest norm of the gradient
    levels: int = 3  # resolutions at which the network answers during training (deep supervision)
    validate_every: int = 100  # iterations between two validations and checkpoints
    # Validations without a better Dice after which training stops, and the best weights are kept instead of the last; 0
    # to go on to the end and keep the last.
    patience: int = 0
    seed: int = 0  # determines initial weights and crops
    # Whether the segmentation network computes in half precision on a CPU as well (on a GPU it always does): about
    # twice as fast on processors with instructions for it (AVX-512 BF16, AMX), slow on others. Refused for a PDD
    # network, whose time goes into sums that need single precision.
    bfloat16: bool = False

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "levels", "validate_every"):
            if getattr(self, name) < 1:
                raise RegistrationError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if not (self.rate > 0 and self.clip > 0 and self.decay >= 0 and 0 <= self.average < 1 and self.patience >= 0):
            raise RegistrationError(
                f"rate, clip, decay, average and patience are {self.rate}, {self.clip}, {self.decay}, {self.average} "
                f"and {self.patience}, expected positive numbers and an average below 1"
            )


def learning_rate(iteration: int, settings: TrainingSettings, *, start: int = 0) -> float:
    """Warm-up over the first 5 % of the iterations from ``start`` on, then half a cosine down to zero."""
    done, total = iteration - start, settings.iterations - start
    warm = max(1, total // 20)
    if done < warm:
        return settings.rate * (done + 1) / warm
    share = (done - warm) / max(1, total - warm)
    return settings.rate * 0.5 * (1 + math.cos(math.pi * share))
