"""Numbers that say how good a model is and what it cost, each computed from what it is about.

confusion_counts -> accuracy, precision, recall, f1    binary, class 1 is the positive one
parameter_reduction                                    how much of the model is not trained
effective_rank                                         over how many directions a change is spread
reset_peak_memory, peak_memory                         how much memory a run needed
synchronize, in_mode                                   read the clock truly; leave every module in the mode it had
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lora_course.adapters.report import parameter_report


@dataclass(frozen=True)
class ConfusionCounts:
    """Counts of a binary classifier's answers; where nothing was predicted or present, the score asked for is 0."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def n(self) -> int:
        return self.true_positives + self.false_positives + self.false_negatives + self.true_negatives

    @property
    def accuracy(self) -> float:
        """The fraction answered correctly."""
        return _ratio(self.true_positives + self.true_negatives, self.n)

    @property
    def precision(self) -> float:
        """Of those called positive, the fraction that is. 0 if none was called positive."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Of the positive ones, the fraction found. 0 if there is none."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall, 2TP / (2TP + FP + FN). 0 if nothing is or was called positive."""
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)


def confusion_counts(predictions: Tensor, labels: Tensor) -> ConfusionCounts:
    """Count the four outcomes.

    predictions, labels: (n,) class numbers, 0 or 1.
    Raises ValueError if the shapes differ or a value is neither 0 nor 1.
    """
    if predictions.shape != labels.shape or predictions.ndim != 1:
        raise ValueError(
            f"predictions and labels must be two vectors of one length, got shapes "
            f"{tuple(predictions.shape)} and {tuple(labels.shape)}"
        )
    for name, values in (("predictions", predictions), ("labels", labels)):
        if not ((values == 0) | (values == 1)).all():
            raise ValueError(f"{name} must be 0 or 1 (binary classes), found {sorted(set(values.tolist()))[:5]}")
    cell = (2 * labels.long() + predictions.long()).bincount(minlength=4)  # 0 TN, 1 FP, 2 FN, 3 TP
    tn, fp, fn, tp = cell.tolist()
    return ConfusionCounts(tp, fp, fn, tn)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """(trainable, all) parameters; a tensor shared by two layers counts once."""
    report = parameter_report(model)
    return report.trainable, report.total


def parameter_reduction(model: nn.Module) -> float:
    """1 - trainable / all: 0 for full fine-tuning, 0.99 if 1 % is trained. Raises ValueError if there are none."""
    trainable, total = parameter_counts(model)
    if not total:
        raise ValueError("the model has no parameters")
    return 1 - trainable / total


def effective_rank(singular_values: Iterable[float]) -> float:
    """exp of the entropy of the singular values as shares of their sum: r if r are equal and the others 0.

    A soft count of directions (Roy and Vetterli 2007, "The effective rank", section 2). 0 for a change of 0.
    Raises ValueError if a value is negative or not finite.
    """
    values = [float(value) for value in singular_values]
    if not all(value >= 0 and math.isfinite(value) for value in values):
        raise ValueError("singular values are finite and 0 or more")
    total = sum(values)
    shares = [value / total for value in values if value > 0]
    return math.exp(-sum(p * math.log(p) for p in shares)) if shares else 0.0


@dataclass(frozen=True)
class PeakMemory:
    bytes: int
    label: str  # what the bytes are a peak of

    def __str__(self) -> str:
        return f"{self.bytes / 2**20:.0f} MiB {self.label}"


def reset_peak_memory(device: torch.device) -> None:
    """Make the next `peak_memory` count from now: on CUDA, and on Linux where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu" and sys.platform == "linux":
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # proc(5): sets the peak, VmHWM, to what is resident now


def peak_memory(device: torch.device) -> PeakMemory:
    """Peak since `reset_peak_memory`, where that can be reset; the label says which of these it is.

    CUDA: what the allocator handed out. CPU: resident memory of the whole process (Python, libraries and weights
    included). MPS keeps no peak: what the driver holds now, which the allocator seldom gives back.
    """
    if device.type == "cuda":
        return PeakMemory(torch.cuda.max_memory_allocated(device), "peak allocated on the GPU")
    if device.type == "mps":
        return PeakMemory(torch.mps.driver_allocated_memory(), "held by the MPS driver at the end")
    return PeakMemory(_peak_resident_bytes(), "peak resident memory of the process")


def _peak_resident_bytes() -> int:
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    if sys.platform == "linux":
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, KiB elsewhere
    return peak if sys.platform == "darwin" else peak * 1024


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given, so that a clock read next is true. Nothing to do on a CPU."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextlib.contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Train or eval mode inside the block; afterwards each module has the mode it had, even if they differed."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode
