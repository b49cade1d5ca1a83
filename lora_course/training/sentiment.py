"""Sentiment classification from start to finish: tokenize, train, and say how good the result is.

tokenize_reviews     texts to token ids, unpadded: padding belongs to the batch
evaluate_sentiment   loss, accuracy and F1 of a model on reviews it has not been trained on
train_sentiment      both around `fit`: evaluate on validation while training, on test at the end
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_course.device import describe_device
from lora_course.training.batching import example_lengths, pad_collate, sorted_batches
from lora_course.training.config import TrainingConfig
from lora_course.training.history import History
from lora_course.training.loop import fit
from lora_course.training.metrics import confusion_counts, in_mode, synchronize

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from transformers import PreTrainedTokenizerBase

MAX_LENGTH = 128  # tokens; every sentence of Rotten Tomatoes fits


@dataclass(frozen=True)
class SentimentResult:
    """How a classifier did on `n` reviews. loss is the mean cross entropy in nats; f1 is that of the positive class."""

    loss: float
    accuracy: float
    precision: float
    recall: float
    f1: float
    n: int
    seconds: float
    model: str
    device: str

    @property
    def samples_per_second(self) -> float:
        return self.n / self.seconds

    def metrics(self) -> dict[str, float]:
        return {"loss": self.loss, "accuracy": self.accuracy, "f1": self.f1}

    def __str__(self) -> str:
        return (
            f"accuracy {self.accuracy:.3f}, F1 {self.f1:.3f}, loss {self.loss:.3f} on {self.n} reviews, {self.model}, "
            f"{self.seconds:.1f} s ({self.samples_per_second:.0f} reviews/s), {self.device}"
        )


def tokenize_reviews(reviews: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int = MAX_LENGTH) -> Dataset:
    """Columns input_ids (lists, cut at max_length tokens, not padded) and labels.

    Raises ValueError if a text or label column is missing.
    """
    from datasets import Dataset

    if missing := {"text", "label"} - set(reviews.column_names):
        raise ValueError(f"reviews lack {', '.join(sorted(missing))}; they have {', '.join(reviews.column_names)}")
    ids = tokenizer(list(reviews["text"]), truncation=True, max_length=max_length)["input_ids"]
    return Dataset.from_dict({"input_ids": ids, "labels": list(reviews["label"])})


@torch.no_grad()
def evaluate_sentiment(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    reviews: Dataset,
    *,
    max_length: int = MAX_LENGTH,
    batch_size: int = 64,
    collate: Callable[[list], Mapping[str, Tensor]] | None = None,
) -> SentimentResult:
    """Score `model` in eval mode on reviews (text, label) or on what `tokenize_reviews` made of them.

    The result does not depend on batch_size but for rounding. The model is left in the mode it was in.
    Raises ValueError if there are no reviews.
    """
    tokenized = reviews if "input_ids" in reviews.column_names else tokenize_reviews(reviews, tokenizer, max_length)
    if not len(tokenized):
        raise ValueError("there are no reviews to evaluate on")
    collate = collate or (lambda examples: pad_collate(examples, tokenizer.pad_token_id))
    device = next(model.parameters()).device
    logits, labels, began = [], [], perf_counter()
    with in_mode(model, training=False):
        for indices in sorted_batches(example_lengths(tokenized), batch_size):
            batch = {k: v.to(device) for k, v in collate([tokenized[i] for i in indices]).items()}
            labels.append(batch.pop("labels"))
            logits.append(model(**batch).logits)  # (B, 2)
    synchronize(device)
    logits, labels = torch.cat(logits).float(), torch.cat(labels)
    counts = confusion_counts(logits.argmax(-1), labels)
    return SentimentResult(
        loss=F.cross_entropy(logits, labels).item(),
        accuracy=counts.accuracy,
        precision=counts.precision,
        recall=counts.recall,
        f1=counts.f1,
        n=counts.n,
        seconds=perf_counter() - began,
        model=type(model).__name__,
        device=describe_device(device),
    )


def train_sentiment(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    splits: DatasetDict,
    config: TrainingConfig,
    *,
    max_length: int = MAX_LENGTH,
    collate: Callable[[list], Mapping[str, Tensor]] | None = None,
    dataset: str = "reviews",
    **options: Any,
) -> tuple[History, SentimentResult]:
    """Train on splits["train"], evaluate on splits["validation"] on the way, and judge by splits["test"] at the end.

    options: any other keyword argument of `fit` (loss, schedule, checkpoint_path, progress …).
    Returns the history and the result on the test split.
    """
    collate = collate or (lambda examples: pad_collate(examples, tokenizer.pad_token_id))
    tokenized = {split: tokenize_reviews(splits[split], tokenizer, max_length) for split in splits}

    def score(split: str) -> SentimentResult:
        return evaluate_sentiment(model, tokenizer, tokenized[split], collate=collate)

    history = fit(
        model,
        tokenized["train"],
        collate,
        config,
        evaluate=lambda _: score("validation").metrics(),
        dataset=f"{dataset}, {len(tokenized['train'])} for training",
        **options,
    )
    return history, score("test")
