"""How fast NF4 turns back into numbers: ours against bitsandbytes' C++, where that is installed, and a plain lookup.

    python -m lora_course.quantization.throughput

One process, each in turn, so that whatever else the machine does hits all alike; medians of the ratios of neighbouring
turns, which a busy machine disturbs less than the times themselves. Before a turn is a pause, in which the threads of
the other library go to sleep: they wait awake for a while, on a core that is wanted. A turn starts with calls that
do not count, since the first have to wake the threads and may have to ask the system for memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from statistics import median

import torch
from torch import Tensor

from lora_course.quantization.nf4 import _at_once, dequantize_nf4, quantize_nf4

SMOLLM2 = 30 * [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)]
SETS = {  # what is dequantized, one weight after the other
    "576 x 576": [(576, 576)],
    "1536 x 576": [(1536, 576)],
    "2048 x 2048": [(2048, 2048)],
    "4096 x 4096": [(4096, 4096)],
    "all of SmolLM2": SMOLLM2,
}
PAUSE = 0.05  # seconds before each turn
WARM = 5  # calls at least, before those that are timed


@dataclass(frozen=True)
class Row:
    """name: what was timed.  milliseconds: the median turn.  speed: ours is 1; 2 is twice as fast as ours."""

    name: str
    milliseconds: float
    speed: float


def throughput(shapes: Sequence[tuple[int, int]] = SMOLLM2, repeats: int = 21) -> list[Row]:
    """Dequantize random float32 weights of these shapes on the CPU, one by one, in each way, in `repeats` turns.

    Raises AssertionError if two ways disagree in a bit: a fast wrong answer is not worth timing.
    """
    ways: dict[str, list[Callable[[], Tensor]]] = {"lora_course": [], "one lookup of all pairs": []}
    theirs = import_module("bitsandbytes.functional") if find_spec("bitsandbytes") else None
    rng = torch.Generator().manual_seed(0)
    for shape in shapes:
        W = torch.randn(shape, generator=rng)
        q = quantize_nf4(W)
        ways["lora_course"].append(partial(dequantize_nf4, q))
        ways["one lookup of all pairs"].append(partial(_at_once, q.codes, q.absmax, q.block, W.numel()))
        if theirs:
            packed, state = theirs.quantize_4bit(W, blocksize=q.block, quant_type="nf4", compress_statistics=False)
            ways.setdefault("bitsandbytes", []).append(partial(theirs.dequantize_4bit, packed, state))
    for name, calls in ways.items():
        for call, ours in zip(calls, ways["lora_course"], strict=True):
            assert torch.equal(call().flatten(), ours().flatten()), f"{name} disagrees with lora_course"
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, calls in ways.items():
            time.sleep(PAUSE)
            for call in (WARM * calls)[:WARM]:
                call()
            start = time.perf_counter()
            for call in calls:
                call()
            times[name].append(1000 * (time.perf_counter() - start))
    ours = times["lora_course"]
    return [
        Row(name, median(taken), median(o / t for o, t in zip(ours, taken, strict=True)))
        for name, taken in times.items()
    ]


def main() -> None:
    start = time.perf_counter()
    print(f"NF4 to float32, CPU, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'weights':16} {'by':24} {'ms':>8}   speed of lora_course")
    for weights, shapes in SETS.items():
        for row in throughput(shapes):
            print(f"{weights:16} {row.name:24} {row.milliseconds:8.3f}   {1 / row.speed:5.2f} of it")
    if not find_spec("bitsandbytes"):
        print("bitsandbytes is not installed: nothing to compare with (pip install bitsandbytes)")
    print(f"{time.perf_counter() - start:.1f} s in all")


if __name__ == "__main__":
    main()
