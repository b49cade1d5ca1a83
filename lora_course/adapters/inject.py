"""Put adapters into a model, and take them out again.

    find_targets   which layers do the names in the config mean?
    inject         wrap them, freeze the rest, keep the heads trainable
    merge/unmerge  fold the changes into the base weights and back
    eject          remove the wrappers: a plain model again, with the merged weights if it was merged
All work in place on a plain nn.Module and return it.
"""

from __future__ import annotations

import difflib
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import nn

from lora_course.adapters import METHODS
from lora_course.adapters.base import Adapter, layer_kind
from lora_course.adapters.config import ALL_LINEAR, AdapterConfig

HEADS = ("classifier", "score")  # what transformers calls a freshly initialised classification head
SPLIT_FIRST = "Make its projections layers first: lora_course.adapters.attention.split_attention(model)"


def adapters(model: nn.Module) -> dict[str, Adapter]:
    """Name -> adapter for every adapter in the model, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Adapter)}


def adapter_config(model: nn.Module) -> AdapterConfig:
    """The config a model was injected with. Raises ValueError if it was not."""
    for adapter in adapters(model).values():
        return adapter.config
    raise ValueError("this model has no adapters: call inject(model, config) first")


def inject(
    model: nn.Module,
    config: AdapterConfig,
    layer: type[Adapter] | None = None,
    single: Mapping[str, AdapterConfig] | None = None,
) -> nn.Module:
    """Wrap the target layers, freeze everything else, leave `config.trainable` modules trainable. Returns `model`.

    layer: your own adapter class, called as layer(base_layer, config); by default the one of `config.method`.
    single: full name -> config, for layers whose rank or alpha is not the one of `config`.

    Raises ValueError or TypeError, before anything is changed, if the model has adapters already, the method is
    unknown, a name matches nothing (it lists what is there), a target is of a kind that the method cannot adapt, or a
    head shares its weight with a layer that is to stay frozen.
    """
    if adapters(model):
        raise ValueError("this model already has adapters: load a fresh base model, or call eject(model) first")
    if layer is None:
        if config.method not in METHODS:
            raise ValueError(
                f"unknown method {config.method!r}{_did_you_mean(config.method, METHODS)}; "
                f"there are {', '.join(METHODS)}"
            )
        layer = METHODS[config.method]
    targets = find_targets(model, config)
    heads = _named(model, config.trainable, "trainable")
    _refuse_tied_heads(model, config, heads)
    configs = {base: (single or {}).get(name, config) for name, base in targets.items()}
    for name, base in targets.items():
        try:
            layer.check(base, configs[base])
        except (TypeError, ValueError) as error:
            raise type(error)(f"target {name!r}: {error}") from None
    common = layer.prepare(model, targets, config)

    trained = [p for p in model.parameters() if p.requires_grad]
    model.requires_grad_(False)
    try:  # in order: A is drawn at random
        wrapped = {base: layer(base, own, **common).train(base.training) for base, own in configs.items()}
    except Exception:
        for parameter in trained:
            parameter.requires_grad_(True)
        raise
    for name, base in targets.items():
        model.set_submodule(name, wrapped[base])
    for head in heads.values():
        head.requires_grad_(True)
    for name in HEADS:
        if isinstance(getattr(model, name, None), nn.Module) and name not in config.trainable:
            warnings.warn(
                f"the head {name!r} stays frozen: if it is freshly initialised, add trainable=[{name!r}]", stacklevel=2
            )
    return model


def find_targets(model: nn.Module, config: AdapterConfig) -> dict[str, nn.Module]:
    """Full name -> layer for all that `config.target_modules` means. A layer with two names has two rows.

    A suffix matches whole path parts: "query" means "encoder.query", never "my_query". "all-linear" means every Linear
    and Conv1D except the output embedding and classification heads. Layers inside a `trainable` module are never
    targets.

    Raises ValueError if a name matches nothing, or matches a layer that we cannot adapt.
    """
    heads = [*_named(model, config.trainable, "trainable")]
    inside_head = tuple(f"{head}." for head in heads)
    everywhere = model.named_modules(remove_duplicate=False)
    modules = {n: m for n, m in everywhere if n and not f"{n}.".startswith(inside_head)}
    if config.target_modules == ALL_LINEAR:
        skip = _outputs(model)
        found = {
            n: m
            for n, m in modules.items()
            if layer_kind(m) in ("linear", "conv1d") and m not in skip and not _inside_attention_module(model, n)
        }
        if not found:
            raise ValueError(f"'all-linear' found no Linear or Conv1D layer in {type(model).__name__}")
        return found
    found = {}
    for target in config.target_modules:
        matches = {n: m for n, m in modules.items() if _has_suffix(n, target)}
        if not matches:
            raise ValueError(
                f"target_modules: {target!r} matches no layer of {type(model).__name__}"
                f"{_did_you_mean(target, _last_parts(modules))}. It has {_describe_layers(modules)}"
                f"{f'. {SPLIT_FIRST}' if any(isinstance(m, nn.MultiheadAttention) for m in modules.values()) else ''}"
            )
        found |= matches
    for name, module in found.items():
        if layer_kind(module) is None:
            raise ValueError(
                f"target_modules: {name!r} is a {type(module).__name__}; only Linear, Conv1D and Embedding "
                f"layers can be adapted. There are {_describe_layers(modules)}"
            )
        if _inside_attention_module(model, name):
            raise ValueError(
                f"target_modules: {name!r} is inside an nn.MultiheadAttention, which reads the weight and "
                f"never calls the layer: an adapter there would do nothing. {SPLIT_FIRST}"
            )
    return found


def merge(model: nn.Module) -> nn.Module:
    """Fold every adapter into its base weight: same outputs, no extra cost. Idempotent. Returns `model`.

    A base weight tied to another layer (an output embedding) is given its own copy first, so that only the adapted
    layer changes; `unmerge` ties it again. Raises ValueError, before anything is changed, if a change is not finite, or
    is none of the weight (bottleneck adapters).
    """
    found = {name: adapter for name, adapter in adapters(model).items() if not adapter.merged}
    adapter_config(model)
    for name, adapter in found.items():
        if problem := adapter.merge_problem():
            raise ValueError(f"refusing to merge: the adapter at {name!r} {problem}")
    for name, adapter in found.items():
        if _other_owners(model, adapter.weight, f"{name}.base_layer."):
            adapter.tied_weight = (adapter.weight,)  # in a tuple, so that it is not registered a second time
            adapter.base_layer.weight = nn.Parameter(adapter.weight.detach().clone(), requires_grad=False)
            _say_tied(model, False)
        adapter.merge()
    return model


def unmerge(model: nn.Module) -> nn.Module:
    """Undo `merge`, exact to rounding; weights that were tied are tied again. Idempotent. Returns `model`."""
    adapter_config(model)
    for adapter in adapters(model).values():
        adapter.unmerge()
        if hasattr(adapter, "tied_weight"):
            (adapter.base_layer.weight,) = adapter.tied_weight
            del adapter.tied_weight
            _say_tied(model, True)
    return model


def eject(model: nn.Module) -> nn.Module:
    """Put the base layers back where the adapters are. Merge first to keep what was learned. Returns `model`.

    Unmerged, the base weights are those from before `inject`; for methods that change them (PiSSA, OLoRA) to rounding.
    LoftQ leaves its quantized layers: what they were quantized from is gone.
    """
    everywhere = [(n, m) for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, Adapter)]
    released = {adapter: adapter.release() for adapter in dict.fromkeys(m for _, m in everywhere)}
    for name, adapter in everywhere:
        model.set_submodule(name, released[adapter])
    return model


def _has_suffix(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith(f".{suffix}")


def _named(model: nn.Module, suffixes: Iterable[str], field: str) -> dict[str, nn.Module]:
    found = {}
    for suffix in suffixes:
        matches = {n: m for n, m in model.named_modules() if n and _has_suffix(n, suffix)}
        if not matches:
            children = [n for n, _ in model.named_children()]
            raise ValueError(
                f"{field}: {suffix!r} matches no module of {type(model).__name__}"
                f"{_did_you_mean(suffix, _last_parts(dict(model.named_modules())))}. "
                f"Its top modules are {', '.join(children)}"
            )
        found |= matches
    return found


def _outputs(model: nn.Module) -> set[nn.Module]:
    """The layers that "all-linear" leaves alone: the output embedding, and classification heads."""
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    heads = [getattr(model, name, None) for name in HEADS]
    return {part for module in (output, *heads) if isinstance(module, nn.Module) for part in module.modules()}


def _inside_attention_module(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name.rpartition(".")[0]), nn.MultiheadAttention)


def _other_owners(model: nn.Module, parameter: nn.Parameter, prefix: str) -> list[str]:
    """Names outside `prefix` under which the model holds this very parameter."""
    everywhere = model.named_parameters(remove_duplicate=False)
    return [name for name, p in everywhere if p is parameter and not name.startswith(prefix)]


def _refuse_tied_heads(model: nn.Module, config: AdapterConfig, heads: dict[str, nn.Module]) -> None:
    inside = {id(p) for head in heads.values() for p in head.parameters()}
    prefixes = tuple(f"{head}." for head in heads)
    for name, p in model.named_parameters(remove_duplicate=False):
        if id(p) in inside and not name.startswith(prefixes):
            raise ValueError(
                f"trainable: {list(config.trainable)} shares its weight with {name!r}, which would be trained "
                "along. Name both to train both, or adapt the layer through target_modules instead"
            )


def _say_tied(model: nn.Module, tied: bool) -> None:
    """Tell transformers, so that save_pretrained writes both weights while they differ."""
    config = getattr(model, "config", None)
    if hasattr(config, "tie_word_embeddings"):
        config.tie_word_embeddings = tied


def _last_parts(modules: dict[str, nn.Module]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in modules})


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _describe_layers(modules: dict[str, nn.Module]) -> str:
    """E.g. `dense (Linear, 13), query (Linear, 6)`."""
    counts = Counter((n.rpartition(".")[2], type(m).__name__) for n, m in modules.items() if layer_kind(m))
    return ", ".join(f"{name} ({kind}, {n})" for (name, kind), n in sorted(counts.items())) or "no layer we can adapt"
