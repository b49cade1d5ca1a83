"""Save and load adapters in PEFT's own format, so that ours open there and theirs open here.

A folder holds two files:
    adapter_config.json         method and settings
    adapter_model.safetensors   base_model.model.<layer>.lora_A.weight and so on, plus the heads trained whole
Saving writes both before it replaces either; loading checks every name and shape before it touches the model.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lora_course.adapters.config import ALL_LINEAR, AdapterConfig
from lora_course.adapters.inject import adapter_config, adapters, eject, inject
from lora_course.atomic import replace_files

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."

# Settings of PEFT's LoraConfig that change no number here, whatever their value.
INFORMATION = {
    "alora_invocation_tokens",
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "megatron_config",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "init_lora_weights",
}
CHANGES_THE_BASE = ("pissa", "olora", "corda", "lora_ga")  # values of init_lora_weights


def save_adapter(model: nn.Module, folder: str | os.PathLike) -> Path:
    """Write adapters and trained heads to `folder` in PEFT's format; the base model is not written. Returns the folder.

    Raises ValueError if the model has no adapters or is merged, OSError if the folder cannot be written (what was
    there before stays).
    """
    from safetensors.torch import save_file

    config = adapter_config(model)
    if any(adapter.merged for adapter in adapters(model).values()):
        raise ValueError("the adapters are merged into the base: call unmerge(model) before saving them")
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; save_adapter needs a folder")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: p.detach().cpu().contiguous().clone() for key, p in _tensors_by_key(model).items()}
    text = json.dumps(_to_peft(model, config), indent=2, sort_keys=True) + "\n"
    replace_files(
        {
            folder / WEIGHTS_FILE: lambda path: save_file(tensors, path, metadata={"format": "pt"}),
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
    tensors = _read_tensors(folder / WEIGHTS_FILE)
    config = _from_peft(settings, tensors, model, folder / CONFIG_FILE)

    fresh = not adapters(model)
    trainable_before = {name: p.requires_grad for name, p in model.named_parameters()}
    if fresh:
        inject(model, config)
    elif (theirs := _settings(model, config)) != (ours := _settings(model, adapter_config(model))):
        raise ValueError(f"{folder} was saved with {theirs}, this model has {ours}: load it into a fresh base model")
    try:
        expected = _tensors_by_key(model)
        base_copies = {key for key in tensors if ".base_layer." in key}  # PEFT adds adapted embeddings; we have them
        _check(expected, {key: t for key, t in tensors.items() if key not in base_copies}, folder / WEIGHTS_FILE)
    except ValueError:
        if fresh:
            eject(model)
            for name, p in model.named_parameters():
                p.requires_grad_(trainable_before[name])
        raise
    with torch.no_grad():
        for key, parameter in expected.items():
            parameter.copy_(tensors[key])
    return model


def _tensors_by_key(model: nn.Module) -> dict[str, nn.Parameter]:
    """PEFT's key -> parameter, for adapters and for the modules trained whole."""
    found = {}
    inside = set()
    for name, adapter in adapters(model).items():
        parameters = dict(adapter.named_parameters(recurse=False))
        for own, theirs in adapter.file_names().items():
            found[f"{PREFIX}{name}.{theirs}"] = parameters[own]
        inside |= {id(p) for p in adapter.parameters()}
    for name, p in model.named_parameters():
        if p.requires_grad and id(p) not in inside:
            found[PREFIX + name] = p
    return found


def _to_peft(model: nn.Module, config: AdapterConfig) -> dict[str, Any]:
    targets = config.target_modules
    base = getattr(getattr(model, "config", None), "_name_or_path", None)
    kinds = {adapter.kind for adapter in adapters(model).values()}
    return {
        "peft_type": "LORA",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": sorted(adapters(model)) if targets == ALL_LINEAR else list(targets),
        "modules_to_save": list(config.trainable) or None,
        "fan_in_fan_out": kinds == {"conv1d"},
        "bias": "none",
        "init_lora_weights": True,
        "base_model_name_or_path": base or None,
        "task_type": None,
        "inference_mode": True,
    }


def _from_peft(settings: dict[str, Any], tensors: dict[str, Tensor], model: nn.Module, path: Path) -> AdapterConfig:
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"{path}: peft_type is {settings.get('peft_type')!r}; we read 'LORA'")
    for name, value in settings.items():
        neutral = value in (None, False, "none", {}, [])
        if name not in INFORMATION and not neutral:
            raise ValueError(f"{path}: {name} = {value!r} changes the result, and we do not implement it")
    if str(settings.get("init_lora_weights")).lower().startswith(CHANGES_THE_BASE):
        raise ValueError(
            f"{path}: init_lora_weights = {settings['init_lora_weights']!r} changed the base weights, which "
            "this file does not hold; save it from PEFT converted to plain LoRA first"
        )
    targets = settings.get("target_modules")
    if isinstance(targets, str):  # PEFT allows a regular expression; the tensors say what it matched
        targets = sorted({key.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for key in tensors if ".lora_" in key})
    present = {part for name, _ in model.named_modules() for part in (name, name.rpartition(".")[2])}
    heads = [head for head in settings.get("modules_to_save") or () if head in present]
    try:
        return AdapterConfig(
            rank=settings["r"],
            alpha=settings["lora_alpha"],
            target_modules=targets,
            dropout=settings.get("lora_dropout", 0.0),
            trainable=heads,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a usable adapter config: {error!r}") from error


def _settings(model: nn.Module, config: AdapterConfig) -> dict[str, Any]:
    """What must agree for tensors to fit and to mean the same."""
    targets = set(adapters(model))
    if config.target_modules != ALL_LINEAR:
        targets = {name for name in targets if any(f".{name}".endswith(f".{t}") for t in config.target_modules)}
    return {"method": config.method, "rank": config.rank, "alpha": config.alpha, "layers": len(targets)}


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


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: the folder holds a config but no weights")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is corrupt or cut short ({error}): copy or save it again") from error


def _check(expected: dict[str, nn.Parameter], found: dict[str, Tensor], path: Path) -> None:
    problems = [f"missing {key}" for key in sorted(expected.keys() - found.keys())]
    problems += [f"unexpected {key}" for key in sorted(found.keys() - expected.keys())]
    problems += [
        f"{key} is {tuple(found[key].shape)}, the model needs {tuple(p.shape)}"
        for key, p in expected.items()
        if key in found and found[key].shape != p.shape
    ]
    problems += [f"{key} holds NaN or infinity" for key, t in found.items() if not torch.isfinite(t).all()]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValueError(f"{path} does not fit this model: {'; '.join(problems[:3])}{more}")
