"""The memory of a training step that never runs: the real model code on tensors without contents.

Under torch's FakeTensorMode every tensor has a shape, a dtype and a place, and no bytes. So a model of 70 billion
parameters is built, adapted, and taken through forward, backward and optimizer step as `measure` does it with a real
one; what is counted is the same. Layers are alike: a few are run, and the rest is a straight line if it is one
(extrapolate.py). Dropout, kernels and masks are those of the CPU.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import nn

from lora_course.adapters.base import is_packed
from lora_course.adapters.config import AdapterConfig
from lora_course.adapters.inject import adapters, inject
from lora_course.adapters.optimizers import make_optimizer
from lora_course.adapters.report import parameter_report
from lora_course.memory.extrapolate import in_layers
from lora_course.memory.measure import StepMemory, measure
from lora_course.memory.models import known_config
from lora_course.memory.packed import QUANTIZED
from lora_course.quantization.base import quantize_base

if TYPE_CHECKING:
    from transformers import PretrainedConfig

OPTIMIZERS = ("adamw", "lora_plus", "lora_fa", "sgd")
LIKE_LORA = ("dylora", "pissa", "olora")  # same tensors as LoRA, but a random draw or a look at the weight's values


@dataclass(frozen=True, repr=False)
class MemoryPlan(StepMemory):
    """The bytes of a planned step, with the number of parameters trained and of all (adapters included)."""

    trained_numbers: int = 0
    all_numbers: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "saved": self.saved, "peak": self.peak}

    def _table(self) -> list[tuple[str, str, str]]:
        share = f"{100 * self.trained_numbers / self.all_numbers:.3g} %"
        return [*super()._table(), ("trained", share, f"{self.trained_numbers:,} of {self.all_numbers:,} numbers")]


@dataclass(frozen=True)
class Situation:
    """How a model is trained, beyond its adapters. Sizes: batch examples of sequence tokens."""

    batch: int = 1
    sequence: int = 128
    dtype: torch.dtype = torch.float32
    adapter_dtype: torch.dtype | None = None
    optimizer: str = "adamw"
    checkpointing: bool = False
    quantization: str | None = None
    padded: bool = True


def plan(model: str | PretrainedConfig, adapter: AdapterConfig | None = None, **situation: Any) -> MemoryPlan:
    """Predict the memory of a training step, the second or any later one.

    model: a name in `lora_course.memory.models.MODELS`, or a transformers config (BERT-like: classification of two
        labels; all others: a causal language model).
    adapter: what is injected; None for full fine-tuning. A classification head is trained along.
    batch, sequence: examples in a batch, and tokens in each.
    dtype: of weights and activations.  adapter_dtype: of what is trained, `dtype` by default.
    optimizer: "adamw", "lora_plus", "lora_fa" or "sgd".
    checkpointing: every block keeps its input only, and is computed again in the backward pass.
    quantization: for all linear layers but the output's: "nf4" (4.5 bits), "nf4-double" (4.13; what `quantize_base`
        calls "nf4", since it always quantizes the absmax too) or "int8". LoftQ's is always "nf4-double".
    padded: whether the batch has an attention mask with zeros; without, attention can go without a mask.

    Weights and their packed form count as parameters.
    Not seen: what an operation needs inside itself (such as indices to unpack a weight, up to 2 MiB), what CUDA and its
    allocator hold besides, the program.
    Raises ValueError for what makes no sense: an unknown name, quantized full fine-tuning, a sequence too long.
    """
    config = known_config(model) if isinstance(model, str) else model
    how = Situation(**situation)
    _check(config, adapter, how)
    if adapter and adapter.method == "loftq":  # quantizes the base itself, and looks at its values to do so
        adapter, how = replace(adapter, method="lora"), replace(how, quantization="nf4-double")
    return in_layers(config, lambda config: plan_whole(config, adapter, how))


def plan_whole(config: PretrainedConfig, adapter: AdapterConfig | None, how: Situation) -> MemoryPlan:
    """The plan of a model with all its layers run."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from lora_course.assets.hub import quiet_transformers

    with FakeTensorMode(), quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a head stays frozen, that a name of transformers is an old one
        model = _build(config, how).train()
        if how.quantization:
            quantize_base(model, layer=QUANTIZED[how.quantization])
        _adapt(model, adapter, how)
        report = parameter_report(model)
        step = measure(model, _batch(config, how), optimizer=lambda model: _optimizer(model, how.optimizer))
        packed = sum(layer.packed_bytes() for layer in model.modules() if is_packed(layer))
    fields = {name: getattr(step, name) for name in StepMemory.__dataclass_fields__} | {"device": "planned"}
    fields |= {"parameters": step.parameters + packed, "buffers": step.buffers - packed}
    return MemoryPlan(**fields, trained_numbers=report.trainable, all_numbers=report.total)


def _check(config: PretrainedConfig, adapter: AdapterConfig | None, how: Situation) -> None:
    if how.quantization is not None and how.quantization not in QUANTIZED:
        raise ValueError(f"unknown quantization {how.quantization!r}; there are {', '.join(QUANTIZED)}")
    if how.quantization and adapter is None:
        raise ValueError("a quantized weight has no gradient: name an adapter to train")
    if how.optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {how.optimizer!r}; there are {', '.join(OPTIMIZERS)}")
    if how.batch < 1 or how.sequence < 2:
        raise ValueError(f"need a batch of 1 or more and a sequence of 2 or more, got {how.batch} and {how.sequence}")
    if how.sequence > config.max_position_embeddings:
        raise ValueError(f"a sequence of {how.sequence}, but the model has {config.max_position_embeddings} positions")


def is_encoder(config: PretrainedConfig) -> bool:
    return config.model_type == "bert"


def _build(config: PretrainedConfig, how: Situation) -> nn.Module:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification if is_encoder(config) else AutoModelForCausalLM
    model = kind.from_config(config, dtype=how.dtype)
    if how.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.config.use_cache = False
    return model


def _put_adapters(model: nn.Module, adapter: AdapterConfig, how: Situation) -> None:
    """Inject, all tensors of the adapters in the dtype of the situation; a classification head is trained along."""
    if hasattr(model, "classifier") and not adapter.trainable:
        adapter = replace(adapter, trainable=["classifier"])
    inject(model, adapter)
    for layer in adapters(model).values():
        for tensor in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(how.adapter_dtype or how.dtype)


def _adapt(model: nn.Module, adapter: AdapterConfig | None, how: Situation) -> None:
    if adapter is None:
        return
    method = adapter.method
    with mock.patch.object(nn.init, "trunc_normal_", lambda tensor, **_: tensor):  # it looks at what it has drawn
        _put_adapters(model, replace(adapter, method="lora") if method in LIKE_LORA else adapter, how)
    if method in ("pissa", "olora"):
        for layer in adapters(model).values():
            for name, tensor in [*layer.named_parameters(recurse=False)]:
                layer.register_buffer(f"initial_{name}", torch.empty_like(tensor, requires_grad=False))


def _batch(config: PretrainedConfig, how: Situation) -> dict[str, torch.Tensor]:
    ids = torch.ones(how.batch, how.sequence, dtype=torch.long)
    labels = torch.ones(how.batch, dtype=torch.long) if is_encoder(config) else torch.ones_like(ids)
    batch = {"input_ids": ids, "labels": labels}
    return batch | {"attention_mask": torch.ones_like(ids)} if how.padded else batch


def _optimizer(model: nn.Module, name: str) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    return make_optimizer(model, 1e-3, name)
