"""Language models on texts: token ids to train on, and how surprised a model is by texts that it has not seen.

    tokenize_texts             texts to token ids; each is its own label, since the model shifts labels itself
    conditioned_examples       a prompt for the label before each text; only the text is to be predicted
    evaluate_language_model    perplexity = exp(nats / tokens), over the predicted tokens of all texts together

The first token of a text has nothing before it and is not predicted: a text of n tokens counts n - 1 times, so long
texts weigh more than short ones. No start token is added but what the tokenizer adds by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_course.device import describe_device
from lora_course.training.batching import IGNORED, example_lengths, pad_collate, sorted_batches
from lora_course.training.metrics import in_mode, synchronize

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

MAX_LENGTH = 128  # tokens


@dataclass(frozen=True, eq=False)
class LanguageModelResult:
    """How well a model predicted texts.

    nats: (n,) float64, the cross entropy of each text summed over its predicted tokens, in the order of the texts.
    tokens: (n,) int64, how many those are.
    """

    nats: Tensor
    tokens: Tensor
    seconds: float
    model: str
    device: str

    @property
    def loss(self) -> float:
        """Nats a predicted token: the token-weighted mean."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def perplexity(self) -> float:
        """exp(loss): as unsure as among so many equally likely tokens."""
        return math.exp(self.loss)

    def metrics(self) -> dict[str, float]:
        return {"loss": self.loss, "perplexity": self.perplexity}

    def __repr__(self) -> str:
        return (
            f"perplexity {self.perplexity:.1f} ({self.loss:.3f} nats a token) on {len(self.nats)} texts, "
            f"{int(self.tokens.sum())} predicted tokens, {self.model}, {self.seconds:.1f} s, {self.device}"
        )


def tokenize_texts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int = MAX_LENGTH
) -> Dataset:
    """Columns input_ids (lists, cut at max_length tokens, not padded) and labels, the same ids."""
    from datasets import Dataset

    ids = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def mask_prompt(prompt_ids: Sequence[int], text_ids: Sequence[int]) -> dict[str, list[int]]:
    """One example: input_ids, prompt and text together, and labels, in which the prompt is -100."""
    return {"input_ids": [*prompt_ids, *text_ids], "labels": [*[IGNORED] * len(prompt_ids), *text_ids]}


def conditioned_examples(
    reviews: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    end: bool = True,
    max_length: int = MAX_LENGTH,
    join: Callable[[list[int], list[int]], Mapping[str, list[int]]] = mask_prompt,
) -> Dataset:
    """Columns input_ids and labels of "prompt text" for each review: the prompt of its label, a space, the text.

    reviews: columns text and label. prompts: one for each label; must not end with a space, since the space belongs
        to the first word after it.
    end: put the end token behind a text that was not cut, so that a model learns to stop.
    join(prompt_ids, text_ids) -> one example.
    Raises ValueError for a prompt that ends with a space, or as long as max_length, and for a label without a prompt.
    """
    from datasets import Dataset

    if spaced := [prompt for prompt in prompts if prompt != prompt.rstrip()]:
        raise ValueError(f"the prompt {spaced[0]!r} ends with a space: leave it out, the text brings its own")
    if unknown := sorted(set(reviews["label"]) - set(range(len(prompts)))):
        raise ValueError(f"there are {len(prompts)} prompts, and none for label {unknown[0]}")
    prompt_ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    if max(map(len, prompt_ids)) >= max_length:
        raise ValueError(f"a prompt of {max(map(len, prompt_ids))} tokens leaves no room in max_length={max_length}")
    texts = tokenizer([" " + text for text in reviews["text"]], add_special_tokens=False)["input_ids"]
    ending = [tokenizer.eos_token_id] if end else []
    examples = [
        join(list(prompt_ids[label]), [*text, *ending][: max_length - len(prompt_ids[label])])
        for label, text in zip(reviews["label"], texts, strict=True)
    ]
    return Dataset.from_list(examples)


@torch.no_grad()
def evaluate_language_model(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str] | Dataset,
    *,
    max_length: int = MAX_LENGTH,
    batch_size: int = 8,
) -> LanguageModelResult:
    """Score a causal language model in eval mode on texts, or on what `tokenize_texts` made of them.

    A label of -100 is not predicted: so a prompt can be left out of the count. The result does not depend on
    batch_size but for rounding; logits of (batch_size, length, vocabulary) are held at a time. The model is left in
    the mode it was in.

    Raises ValueError if there is no token to predict.
    """
    ready = hasattr(texts, "column_names") and "labels" in texts.column_names
    tokenized = texts if ready else tokenize_texts(texts, tokenizer, max_length)
    device = next(model.parameters()).device
    nats = torch.zeros(len(tokenized), dtype=torch.float64)
    tokens = torch.zeros(len(tokenized), dtype=torch.int64)
    began = perf_counter()
    with in_mode(model, training=False):
        for indices in sorted_batches(example_lengths(tokenized), batch_size):
            batch = pad_collate([tokenized[i] for i in indices], tokenizer.pad_token_id)
            targets = batch.pop("labels")[:, 1:].to(device)  # (B, L - 1)
            logits = model(**{k: v.to(device) for k, v in batch.items()}).logits[:, :-1]  # (B, L - 1, V)
            each = F.cross_entropy(logits.float().mT, targets, ignore_index=IGNORED, reduction="none")  # (B, L - 1)
            nats[indices] = each.double().sum(1).cpu()
            tokens[indices] = (targets != IGNORED).sum(1).cpu()
    synchronize(device)
    if not tokens.sum():
        raise ValueError(f"no token to predict in {len(tokenized)} texts: each needs two, and labels besides -100")
    return LanguageModelResult(nats, tokens, perf_counter() - began, type(model).__name__, describe_device(device))
