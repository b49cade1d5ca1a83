"""The one place that knows which device we run on.

Lessons never name a device: they ask `choose_device()`, say the answer aloud with
`describe_device()`, and seed every random generator with `seed_everything()`.
"""

import os
import random

import torch


def choose_device() -> torch.device:
    """CUDA if there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def describe_device(device: torch.device) -> str:
    """One line for people, e.g. `CPU, 2 threads, float32` or `CUDA, NVIDIA H100, 79.2 GiB, float32`."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"CUDA, {properties.name}, {properties.total_memory / 2**30:.1f} GiB, float32"
    if device.type == "mps":
        return "Apple MPS, memory shared with the system, float32"
    return f"CPU, {torch.get_num_threads()} threads of {os.cpu_count()} cores, float32"


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy (if it is installed) and every torch device, so that a CPU run repeats bit for bit."""
    random.seed(seed)
    torch.manual_seed(seed)  # seeds CPU, CUDA and MPS generators
    try:
        import numpy
    except ImportError:
        return
    numpy.random.seed(seed)


def process_count() -> int:
    """How many processes train together: what torchrun or accelerate started, 1 without them."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE") or 1)
