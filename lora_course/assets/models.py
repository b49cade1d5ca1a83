"""Pretrained models with their tokenizers: the packaged ones, any from the hub, or a local folder.

A model comes on the CPU, in eval mode, in float32 unless told otherwise (bfloat16 is some hundred times slower on
most CPUs), with a padding token both in the tokenizer and in the config.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lora_course.assets.catalogue import CAUSAL_LM, ENCODER
from lora_course.assets.hub import explained, quiet_transformers
from lora_course.assets.store import ensure

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Dropout that is not the base's (a head's), or that skips whole layers.
NOT_BASE_DROPOUT = ("classif", "pooler", "summary", "qa_", "layerdrop")


def load_encoder(
    name: str = "packaged",
    num_labels: int = 2,
    *,
    base_dropout: float | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An encoder with a new classification head of `num_labels` outputs, and its tokenizer.

    name: "packaged" (all-MiniLM-L6-v2), a hub name such as "bert-base-uncased", or a folder.
    base_dropout: dropout probability of hidden states and attention; None keeps the model's own.
    The head is random: seed torch beforehand for the same head again.

    Raises AssetError if the model cannot be had, ValueError if `base_dropout` finds nothing to set.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    if name == "packaged":
        folder = ensure(ENCODER, progress)
        config = AutoConfig.from_pretrained(folder, num_labels=num_labels, local_files_only=True)
        set_base_dropout(config, base_dropout)
        with quiet_transformers():  # it would report that the head is new, which is the point
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, config=config, dtype=dtype, local_files_only=True
            )
        return model, tokenizer

    with explained("model", name, '"packaged"'):
        config = AutoConfig.from_pretrained(name, num_labels=num_labels)
    set_base_dropout(config, base_dropout)
    with explained("model", name, '"packaged"'):
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForSequenceClassification.from_pretrained(name, config=config, dtype=dtype)
    _pad_by_end(model, tokenizer)
    return model, tokenizer


def load_causal_lm(
    name: str = "packaged", *, dtype: torch.dtype = torch.float32, progress: bool = True
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A language model that predicts the next token, and its tokenizer.

    name: "packaged" (SmolLM2-135M-Instruct, as a LlamaForCausalLM), a hub name such as "gpt2", or a folder.
    The padding token may be the end token: mask padded labels by the attention mask, not by the token.

    Raises AssetError if the model cannot be had.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if name == "packaged":
        folder = ensure(CAUSAL_LM, progress)
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
        return model, tokenizer

    with explained("model", name, '"packaged"'):
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    model.loss_type = "ForCausalLM"  # transformers cannot tell it from the name GPT2LMHeadModel, and warns
    _pad_by_end(model, tokenizer)
    return model, tokenizer


def set_base_dropout(config: PretrainedConfig, probability: float | None) -> None:
    """Set every dropout probability of the base, whatever the config calls it (hidden_dropout_prob, attn_pdrop …).

    Raises ValueError if it has none. A head without a setting of its own (BERT's) drops as the hidden states do.
    """
    if probability is None:
        return
    fields = [
        field
        for field, value in config.to_dict().items()
        if ("dropout" in field or "pdrop" in field)
        and type(value) in (int, float)
        and not any(part in field for part in NOT_BASE_DROPOUT)
    ]
    if not fields:
        raise ValueError(f"base_dropout={probability}: a {config.model_type} model has no dropout to set")
    for field in fields:
        setattr(config, field, probability)


def _pad_by_end(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Pad with the end token where a model (GPT-2, Llama) has no padding token."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
