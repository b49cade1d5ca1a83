"""A run on disk, in one file, so that it can be killed at any moment and go on as if nothing had happened.

    state of the model   trainable parameters, and buffers that lie beside them (a rank mask, batch statistics)
    optimizer, schedule  their own state_dicts
    chance               the generators of Python, NumPy, torch and the device: dropout draws what it would have drawn
    callbacks            those with a state_dict: a RankController gives the layers their ranks back
    place                the step; the order of the data is a function of seed and epoch, so the step says it all
    identity             config, model, data: a checkpoint of another run is refused
The frozen base is not stored: the caller loads it as before, and the identity holds a checksum of it.
"""

from __future__ import annotations

import copy
import random
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from lora_course.adapters.base import is_packed
from lora_course.atomic import replace_files
from lora_course.training.config import TrainingConfig

FORMAT = 2


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: damaged, or of another run. The model is as it was, the file too."""


def trainable_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Name -> the live tensor of all that training changes: trainable parameters, persistent buffers beside them."""
    tensors = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    persistent = model.state_dict()
    for prefix, module in model.named_modules():
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            for name, buffer in module.named_buffers(prefix, recurse=False):
                if name in persistent:
                    tensors[name] = buffer
    return tensors


def snapshot(model: nn.Module, callbacks: Sequence[Callable]) -> dict:
    """What training has changed so far, to `put_back` later: live tensors, and the state of the callbacks."""
    return {"tensors": trainable_tensors(model), "callbacks": [c.state_dict() for c in _stateful(callbacks)]}


def copy_of(taken: dict) -> dict:
    """A snapshot that stays as it is, in main memory, where a GPU's memory is not spent on it."""
    tensors = {name: tensor.to("cpu", copy=True) for name, tensor in taken["tensors"].items()}
    return {"tensors": tensors, "callbacks": copy.deepcopy(taken["callbacks"])}


@torch.no_grad()
def put_back(model: nn.Module, callbacks: Sequence[Callable], taken: dict) -> None:
    """Make of the model what it was at a snapshot. Raises CheckpointError if its tensors do not fit."""
    for callback, state in zip(_stateful(callbacks), taken["callbacks"], strict=True):
        callback.load_state_dict(state)  # first: ranks may change
    saved = taken["tensors"]
    live = trainable_tensors(model)
    here, there = _shapes(live), _shapes(saved)
    if here != there:
        raise CheckpointError(f"the saved tensors are not the model's: {_difference('tensors', there, here)}")
    for name, tensor in saved.items():
        live[name].copy_(tensor)


def identity(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    lengths: Sequence[int],
    factors: Sequence[float],
    monitor: str,
    loss: str,
    callbacks: Sequence[Callable],
) -> dict:
    """What must be the same for a run to go on. How often checkpoints are written may differ."""
    settings = {key: value for key, value in asdict(config).items() if key != "checkpoint_every"}
    return {
        "settings": {**settings, "monitor": monitor, "loss": loss},
        "schedule function": {"checksum of its factors": zlib.crc32(repr(list(factors)).encode())},
        "training data": {
            "examples": len(lengths),
            "checksum of their lengths": zlib.crc32(repr(list(lengths)).encode()),
        },
        "optimizer": {
            "class": type(optimizer).__name__,
            "tensors in its groups": [len(group["params"]) for group in optimizer.param_groups],
        },
        "trainable tensors": _shapes(trainable_tensors(model)),
        "frozen base": {"checksum of its weights": _frozen_checksum(model)},
        "callbacks": {"with a state": ", ".join(type(c).__name__ for c in _stateful(callbacks)) or "none"},
    }


def save_checkpoint(path: Path, content: dict) -> None:
    """Write `content`: nested dicts, lists, tensors, numbers, strings. The old file stays until then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for half_written in path.parent.glob(f".{path.name}.*"):  # by a run that was killed; one run writes one file
        half_written.unlink(missing_ok=True)
    replace_files({path: lambda new: torch.save({"format": FORMAT, **content}, new)})


def load_checkpoint(path: Path, expected: dict) -> dict:
    """Read what `save_checkpoint` wrote, all tensors on the CPU, running no code from the file (weights_only).

    expected: this run's `identity`.
    Raises CheckpointError if the file is damaged or of another run, saying what differs and what can be done.
    """
    way_out = "To start over, pass resume=False (the file is replaced at the next checkpoint) or move the file away"
    try:
        with zipfile.ZipFile(path) as archive:  # torch's format is a zip: checksums find what torch would not notice
            if bad := archive.testzip():
                raise ValueError(f"checksum of {bad} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True)
        content["identity"], content["format"]
    except OSError:
        raise
    except Exception as error:  # a damaged zip or pickle can raise nearly anything
        raise CheckpointError(
            f"the checkpoint {path} cannot be read ({error}): it was damaged after it was written, or it "
            f"is no checkpoint of fit(). {way_out}; a copy of it, if you have one, can take its place"
        ) from error
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"the checkpoint {path} has format {content['format']!r}, this version of lora_course reads "
            f"{FORMAT}: go on with the version that wrote it. {way_out}"
        )
    saved = content["identity"]
    different = [
        _difference(part, saved.get(part, {}), expected[part]) for part in expected if saved.get(part) != expected[part]
    ]
    if different:
        raise CheckpointError(
            f"the checkpoint {path} belongs to another run: {'; '.join(different)}. To go on with that "
            f"run, train as it did. {way_out}, or choose another checkpoint_path"
        )
    return content


def random_state(device: torch.device) -> dict:
    """The state of every generator that training may draw from."""
    state = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if numpy := sys.modules.get("numpy"):
        kind, keys, *rest = numpy.random.get_state()
        state["numpy"] = (kind, keys.tolist(), *rest)
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def restore_random_state(state: dict, device: torch.device) -> None:
    """Undo every draw since `random_state`. On a device of another type its own generator is left as it is."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "numpy" in state:
        import numpy

        kind, keys, *rest = state["numpy"]
        numpy.random.set_state((kind, numpy.array(keys, dtype=numpy.uint32), *rest))
    if device.type in state and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state[device.type])


def _stateful(callbacks: Sequence[Callable]) -> list:
    return [callback for callback in callbacks if hasattr(callback, "state_dict")]


def _shapes(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {name: f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for name, t in tensors.items()}


def _frozen_checksum(model: nn.Module) -> int:
    """Of up to 64 entries of every frozen parameter, quantized ones too: enough to tell two base models apart, in
    milliseconds.
    """
    frozen = [(name, p.detach()) for name, p in model.named_parameters() if not p.requires_grad]
    for prefix, layer in model.named_modules():
        if is_packed(layer):
            frozen += layer.named_buffers(prefix)
    checksum = 0
    for name, tensor in frozen:
        flat = tensor.reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].tolist()
        checksum = zlib.crc32(f"{name} {sample}".encode(), checksum)
    return checksum


def _difference(part: str, there: dict, here: dict) -> str:
    keys = [key for key in dict.fromkeys([*there, *here]) if there.get(key) != here.get(key)]
    shown = [f"{key} {there.get(key, 'absent')} in the file, {here.get(key, 'absent')} here" for key in keys[:3]]
    return f"{part} differ ({', '.join(shown)}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''})"
