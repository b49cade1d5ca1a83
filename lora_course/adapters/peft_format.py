"""The format of adapter files: PEFT's own where PEFT has the method, so that ours open there and theirs open here.

    adapter_config.json         peft_type, the settings of the method under PEFT's names, target_modules
    adapter_model.safetensors   base_model.model.<layer>.lora_A.weight and so on, plus the heads trained whole
What is particular to a method stands in its class (`peft_type`, `peft_fields`, `file_names` …; see base.py). Methods
that PEFT does not have are written under the same names with the fields of AdapterConfig. The weights file notes our
name of the method, because several share a format: PEFT opens the files of LoRA-FA as those of the LoRA they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lora_course.adapters import METHODS
from lora_course.adapters.base import Adapter, layer_kind
from lora_course.adapters.config import ALL_LINEAR, AdapterConfig
from lora_course.adapters.inject import adapters

PREFIX = "base_model.model."
METHOD_NOTE = "lora_course_method"  # in the metadata of the weights file

# Settings in PEFT's configs that change no number here, whatever their value: notes, and how training began.
INFORMATION = {
    "alora_invocation_tokens",
    "auto_mapping",
    "base_model_name_or_path",
    "beta1",
    "beta2",
    "d_initial",
    "deltaT",
    "ensure_weight_tying",
    "fan_in_fan_out",
    "inference_mode",
    "init_ia3_weights",
    "init_lora_weights",
    "init_weights",
    "layers_pattern",
    "loftq_config",
    "megatron_config",
    "megatron_core",
    "modules_to_save",
    "orth_reg_weight",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_dropout_scale",
    "revision",
    "runtime_config",
    "save_projection",
    "target_modules",
    "target_r",
    "task_type",
    "tfinal",
    "tinit",
    "total_step",
}
CHANGES_THE_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")  # values of init_lora_weights
HAS_PATTERNS = ("LORA", "LOHA", "LOKR")  # where rank_pattern and alpha_pattern give single layers another rank


def head_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Key in the file -> tensor, sharing storage with the model's, of the modules trained whole."""
    inside = {id(p) for adapter in adapters(model).values() for p in adapter.parameters()}
    own = ((name, p) for name, p in model.named_parameters() if p.requires_grad and id(p) not in inside)
    return {PREFIX + name: p.detach() for name, p in own}


def what_to_write(model: nn.Module) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """The method, the content of adapter_config.json, and the tensors by key, for a model that is not merged."""
    layers, tensors, configs = adapters(model), head_tensors(model), {}
    for name, adapter in layers.items():
        adapter = adapter.plain_lora() or adapter
        configs[name] = adapter.config
        tensors |= {f"{PREFIX}{name}.{key}": tensor for key, tensor in adapter.file_tensors().items()}
    settings = _settings_to_write(model, layers, configs)
    return configs[next(iter(layers))].method, settings, tensors


def _settings_to_write(
    model: nn.Module, layers: Mapping[str, Adapter], configs: Mapping[str, AdapterConfig]
) -> dict[str, Any]:
    config = configs[next(iter(layers))]
    targets = sorted(layers) if config.target_modules == ALL_LINEAR else list(config.target_modules)
    cls = METHODS.get(config.method)  # not the layers' own class, which may be anyone's
    if cls is None or cls.peft_type is None:
        return asdict(config) | {"target_modules": targets}
    settings = {
        "peft_type": cls.peft_type,
        "target_modules": targets,
        "modules_to_save": list(config.trainable) or None,
        "base_model_name_or_path": getattr(getattr(model, "config", None), "_name_or_path", None) or None,
        "task_type": None,
        "inference_mode": True,
        **cls.peft_constants,
        **cls.peft_marks,
        **{theirs: getattr(config, own) for theirs, own in cls.peft_fields.items()},
    }
    if {adapter.kind for adapter in layers.values()} == {"conv1d"}:
        settings["fan_in_fan_out"] = True
    for theirs, own in (("rank_pattern", "rank"), ("alpha_pattern", "alpha")):
        usual = getattr(config, own)
        if pattern := {f"^{re.escape(n)}": getattr(c, own) for n, c in configs.items() if getattr(c, own) != usual}:
            settings[theirs] = pattern
    return settings | cls.layer_settings(layers)


def read_config(
    settings: Mapping[str, Any], note: str | None, keys: Iterable[str], model: nn.Module, path: Path
) -> tuple[AdapterConfig, dict[str, AdapterConfig]]:
    """The config that a file asks for, and the configs of single layers that differ from it.

    note: our name of the method, if the weights file has one.  keys: of its tensors.
    Raises ValueError for a method that we do not have or a setting that we cannot honour.
    """
    if "peft_type" not in settings and settings.get("method") in METHODS:
        return _config(path, settings), {}
    method = _method(settings, note, path)
    cls = METHODS[method]
    known = {**cls.peft_constants, **cls.peft_marks}
    patterns = {"rank_pattern", "alpha_pattern"} if cls.peft_type in HAS_PATTERNS else set()
    understood = INFORMATION | patterns | cls.peft_fields.keys() | cls.layer_settings({}).keys()
    for name, value in settings.items():
        neutral = value in (None, False, "none", {}, []) or (name in known and value == known[name])
        if not neutral and name not in understood:
            raise ValueError(f"{path}: {name} = {value!r} changes the result, and we do not implement it")
    if str(settings.get("init_lora_weights")).lower().startswith(CHANGES_THE_BASE):
        raise ValueError(
            f"{path}: init_lora_weights = {settings['init_lora_weights']!r} changed the base weights, which "
            "this file does not hold; save it from PEFT converted to plain LoRA first"
        )
    present = {part for name, _ in model.named_modules() for part in (name, name.rpartition(".")[2])}
    heads = [head for head in settings.get("modules_to_save") or () if head in present]
    targets = settings.get("target_modules")
    if isinstance(targets, str):  # PEFT allows a regular expression; the tensors say what it matched
        targets = _layers_named(keys, heads, model)
    fields = {own: settings[theirs] for theirs, own in cls.peft_fields.items() if theirs in settings}
    for theirs, own in cls.peft_fields.items():
        if own in ("rank", "alpha") and theirs not in settings:
            raise ValueError(f"{path} is not a usable adapter config: it does not say {theirs}")
    config = _config(path, fields | {"method": method, "target_modules": targets, "trainable": heads})
    if not any(settings.get(pattern) for pattern in patterns):
        return config, {}
    layers = _layers_named(keys, heads, model)
    ranks = {name: _by_pattern(settings.get("rank_pattern"), name, config.rank) for name in layers}
    alphas = {name: _by_pattern(settings.get("alpha_pattern"), name, config.alpha) for name in layers}
    single = {n: _config(path, asdict(config) | {"rank": ranks[n], "alpha": alphas[n]}) for n in layers}
    return config, {name: c for name, c in single.items() if c != config}


def _method(settings: Mapping[str, Any], note: str | None, path: Path) -> str:
    """Of the methods with this peft_type and the most of these marks: the one noted, else the first."""
    types = {cls.peft_type for cls in METHODS.values() if cls.peft_type}
    if settings.get("peft_type") not in types:
        raise ValueError(f"{path}: peft_type is {settings.get('peft_type')!r}; we read {', '.join(sorted(types))}")
    fitting = {
        name: cls
        for name, cls in METHODS.items()
        if cls.peft_type == settings["peft_type"]
        and cls.plain_lora is Adapter.plain_lora  # else a file of it is one of LoRA
        and all(settings.get(mark) == value for mark, value in cls.peft_marks.items())
    }
    most = max(len(cls.peft_marks) for cls in fitting.values())
    fitting = [name for name, cls in fitting.items() if len(cls.peft_marks) == most]
    return note if note in fitting else fitting[0]


def _config(path: Path, fields: Mapping[str, Any]) -> AdapterConfig:
    try:
        return AdapterConfig(**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a usable adapter config: {error!r}") from error


def _layers_named(keys: Iterable[str], heads: Iterable[str], model: nn.Module) -> list[str]:
    """The layers of the model that adapter tensors in the file are named after."""
    layers = {n: m for n, m in model.named_modules() if layer_kind(m) or isinstance(m, Adapter)}
    found = set()
    for key in keys:
        name = key.removeprefix(PREFIX).partition(".base_layer.")[0].rpartition(".")[0]
        while name and name not in layers:
            name = name.rpartition(".")[0]
        if name and not any(f".{head}." in f".{name}." for head in heads):
            found.add(name)
    return sorted(found)


def _by_pattern(pattern: Mapping[str, Any] | None, name: str, usual: Any) -> Any:
    """As PEFT matches: a key is a regular expression for the whole name or for its last parts."""
    return next((v for key, v in (pattern or {}).items() if re.match(rf"(.*\.)?({key})$", name)), usual)


def same_settings(model: nn.Module, config: AdapterConfig, single: Mapping[str, AdapterConfig]) -> dict[str, Any]:
    """What must agree between a file and a model for tensors to fit and to mean the same."""
    layers = set(adapters(model))
    if config.target_modules != ALL_LINEAR:
        layers = {name for name in layers if any(f".{name}".endswith(f".{t}") for t in config.target_modules)}
    cls = METHODS.get(config.method, Adapter)
    fields = [field for field in cls.peft_fields.values() if field != "dropout"] if cls.peft_type else ["rank", "alpha"]
    settings = {"method": config.method, **{f: getattr(config, f) for f in fields}, "layers": len(layers)}
    if single:
        settings["rank and alpha of single layers"] = {name: (c.rank, c.alpha) for name, c in sorted(single.items())}
    return settings
