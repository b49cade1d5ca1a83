"""Save and load adapters in PEFT's own format, so that ours open there and theirs open here (see peft_format.py).

A folder holds two files:
    adapter_config.json         method and settings
    adapter_model.safetensors   the tensors of the adapters, plus the heads trained whole
Saving writes both before it replaces either; loading checks every name and shape before it touches the model.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lora_course.adapters.inject import adapter_config, adapters, eject, inject
from lora_course.adapters.peft_format import (
    METHOD_NOTE,
    PREFIX,
    head_tensors,
    read_config,
    same_settings,
    what_to_write,
)
from lora_course.adapters.sharded import refuse_sharded
from lora_course.atomic import replace_files

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


def save_adapter(model: nn.Module, folder: str | os.PathLike) -> Path:
    """Write adapters and trained heads to `folder` in PEFT's format; the base model is not written. Returns the folder.

    Methods that change the base weight (PiSSA, OLoRA, Delta-LoRA) are written as the plain LoRA, of up to twice the
    rank, that makes the same change to the base as it was. So they load as that, to use or to train on as LoRA.

    Raises ValueError if the model has no adapters, is merged or is sharded over processes, OSError if the folder
    cannot be written (what was there before stays).
    """
    from safetensors.torch import save_file

    adapter_config(model)
    if any(adapter.merged for adapter in adapters(model).values()):
        raise ValueError("the adapters are merged into the base: call unmerge(model) before saving them")
    gather = "gather its state_dict into a whole model first, as README shows under More than one GPU"
    refuse_sharded(model.parameters(), "save_adapter", gather)
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; save_adapter needs a folder")
    folder.mkdir(parents=True, exist_ok=True)
    method, settings, tensors = what_to_write(model)
    tensors = {key: t.cpu().contiguous().clone() for key, t in tensors.items()}
    text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    metadata = {"format": "pt", METHOD_NOTE: method}
    replace_files(
        {
            folder / WEIGHTS_FILE: lambda path: save_file(tensors, path, metadata=metadata),
            folder / CONFIG_FILE: lambda path: path.write_text(text, encoding="utf-8"),
        }
    )
    return folder


def load_adapter(model: nn.Module, folder: str | os.PathLike) -> nn.Module:
    """Put the adapter saved in `folder`, by us or by PEFT, into `model`, ready to run or to train on. Returns `model`.

    A plain model is injected; a model with adapters keeps them if their settings are those of the file.

    Raises FileNotFoundError if a file is missing, ValueError if one is corrupt, uses a setting we cannot honour, or
    does not fit the model. The model is then as it was.
    """
    folder = Path(folder)
    settings = _read_config(folder / CONFIG_FILE)
    tensors, note = _read_tensors(folder / WEIGHTS_FILE)
    try:
        config, single = read_config(settings, note, tensors, model, folder / CONFIG_FILE)
    except (AttributeError, TypeError, re.error) as error:  # a setting of another type than PEFT writes
        raise ValueError(f"{folder / CONFIG_FILE} is not a usable adapter config: {error!r}") from error

    fresh = not adapters(model)
    modules_before = dict(model.named_modules(remove_duplicate=False))
    trainable_before = {name: p.requires_grad for name, p in model.named_parameters()}
    if fresh:
        inject(model, config, single=single)
    else:
        usual = adapter_config(model)
        own = {name: a.config for name, a in adapters(model).items() if a.config != usual}
        if (theirs := same_settings(model, config, single)) != (ours := same_settings(model, usual, own)):
            raise ValueError(
                f"{folder} was saved with {theirs}, this model has {ours}: load it into a fresh base model"
            )
    layers, heads = adapters(model), head_tensors(model)
    buffers = [(b, b.clone()) for adapter in layers.values() for b in adapter.buffers(recurse=False)]
    shared = next(iter(layers.values())).shared_file_tensors()
    try:
        for name, adapter in layers.items():
            adapter.use_layer_settings(settings, name, fresh)
        expected = {f"{PREFIX}{n}.{key}": t for n, a in layers.items() for key, t in a.file_tensors().items()}
        _check(expected | heads, shared, tensors, folder / WEIGHTS_FILE)
    except (TypeError, ValueError, re.error) as error:
        if fresh:
            eject(model)
            for name, module in modules_before.items():
                if name and model.get_submodule(name) is not module:  # LoftQ made a layer of its own
                    model.set_submodule(name, module)
            for name, p in model.named_parameters():
                p.requires_grad_(trainable_before[name])
        for buffer, before in buffers:
            buffer.copy_(before)
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"{folder / CONFIG_FILE} is not a usable adapter config: {error!r}") from error
    for name, adapter in layers.items():
        adapter.load_file_tensors({key: tensors[f"{PREFIX}{name}.{key}"] for key in adapter.file_tensors()})
    for key, live in (heads | shared).items():
        if key in tensors:
            live.copy_(tensors[key])
    return model


def _read_config(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist: not a folder written by save_adapter or PEFT") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is corrupt: not JSON ({error})") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} is corrupt: expected a JSON object, found {type(settings).__name__}")
    return settings


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The tensors, and our name of the method if the file has one."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: the folder holds a config but no weights")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no dict
            return tensors, (file.metadata() or {}).get(METHOD_NOTE)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is corrupt or cut short ({error}): copy or save it again") from error


def _check(expected: Mapping[str, Tensor], optional: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path):
    """Raise ValueError unless every expected tensor is there, nothing else but optional ones, and all fit."""
    found = {key: t for key, t in tensors.items() if ".base_layer." not in key}  # PEFT adds adapted embeddings; we
    allowed = expected | optional  # have them
    problems = [f"missing {key}" for key in sorted(expected.keys() - found.keys())]
    problems += [f"unexpected {key}" for key in sorted(found.keys() - allowed.keys())]
    problems += [
        f"{key} is {tuple(found[key].shape)}, the model needs {tuple(live.shape)}"
        for key, live in allowed.items()
        if key in found and found[key].shape != live.shape
    ]
    problems += [f"{key} holds NaN or infinity" for key, t in found.items() if not torch.isfinite(t).all()]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValueError(f"{path} does not fit this model: {'; '.join(problems[:3])}{more}")
