"""How fast NF4 turns back into numbers: ours against bitsandbytes' C++, where that is installed, and a plain lookup.

    python -m lora_course.quantization.throughput

One process, each in turn, so that whatever else the machine does hits all alike; medians of the ratios of neighbouring
turns, which a busy machine disturbs less than the times themselves. Before a turn is a pause, in which the threads of
the other library go to sleep: they wait awake for a while, on a core that is wanted. A turn is three calls, of which
the last counts, since the first may have to ask the system for memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median

import torch
from torch import Tensor

from lora_course.quantization.nf4 import _at_once, dequantize_nf4, quantize_nf4

PAUSE = 0.05  # seconds before each turn
TURN = 3  # calls


@dataclass(frozen=True)
class Row:
    """name: what was timed.  milliseconds: the median call.  speed: ours is 1; 2 is twice as fast as ours."""

    name: str
    milliseconds: float
    speed: float


def throughput(size: int = 2048, repeats: int = 31) -> list[Row]:
    """Dequantize a random (size, size) float32 weight on the CPU in each way, in `repeats` turns.

    Raises AssertionError if two ways disagree in a bit: a fast wrong answer is not worth timing.
    """
    W = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    q = quantize_nf4(W)
    ways: dict[str, Callable[[], Tensor]] = {
        "lora_course": lambda: dequantize_nf4(q),
        "one lookup of all pairs": lambda: _at_once(q.codes, q.absmax, q.block, W.numel()).view(W.shape),
    }
    if find_spec("bitsandbytes"):
        import bitsandbytes.functional as F

        packed, state = F.quantize_4bit(W, blocksize=q.block, quant_type="nf4", compress_statistics=False)
        ways["bitsandbytes"] = lambda: F.dequantize_4bit(packed, state)
    for name, way in ways.items():
        assert torch.equal(way(), ways["lora_course"]()), f"{name} disagrees with lora_course"
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            time.sleep(PAUSE)
            for _ in range(TURN):
                start = time.perf_counter()
                way()
            times[name].append(1000 * (time.perf_counter() - start))
    ours = times["lora_course"]
    return [
        Row(name, median(taken), median(o / t for o, t in zip(ours, taken, strict=True)))
        for name, taken in times.items()
    ]


def main() -> None:
    start = time.perf_counter()
    rows = throughput()
    print(f"NF4 to float32, 2048 x 2048, CPU, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for row in rows:
        print(f"{row.name:24} {row.milliseconds:8.2f} ms   {1 / row.speed:5.2f} of its speed reached by lora_course")
    if not find_spec("bitsandbytes"):
        print("bitsandbytes is not installed: nothing to compare with (pip install bitsandbytes)")
    print(f"{time.perf_counter() - start:.1f} s in all")


if __name__ == "__main__":
    main()
