"""Which examples go together, and how they become tensors.

    length_bucketed_batches   an epoch's batches: random, yet of similar length, so that little is padding
    sorted_batches            the batches of an evaluation: longest first
    pad_collate               a batch's examples to tensors, padded to its own longest example
An example is a dict: `input_ids`, a list of token ids, and `labels`, a class number or a list with one id per token.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

IGNORED = -100  # the label that torch's cross_entropy, and so every transformers loss, leaves out
POOL_BATCHES = 50


def length_bucketed_batches(lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Batches of indices into `lengths` that cover every example once.

    The examples are shuffled, cut into pools of 50 batches, sorted by length within a pool and cut into batches, and
    the batches are shuffled. Depends on nothing but the arguments, so a resumed run finds its place by counting.
    There are ceil(len(lengths) / batch_size) batches; one of them, anywhere, may be smaller.
    """
    dice = random.Random(f"batches of seed {seed}, epoch {epoch}")
    order = list(range(len(lengths)))
    dice.shuffle(order)
    pool_size = POOL_BATCHES * batch_size
    batches = []
    for start in range(0, len(order), pool_size):
        pool = sorted(order[start : start + pool_size], key=lengths.__getitem__)  # stable: equal lengths stay shuffled
        batches += _cut(pool, batch_size)
    dice.shuffle(batches)
    return batches


def sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Batches of indices, longest examples first: the least padding, and too little memory shows in the first batch."""
    return _cut(sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True), batch_size)


def _cut(order: list[int], batch_size: int) -> list[list[int]]:
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def example_lengths(data: Sequence) -> list[int]:
    """Tokens of each example; 1 where one has no `input_ids`, which makes bucketing a plain shuffle."""
    if hasattr(data, "column_names"):  # datasets.Dataset: a column at once is much faster than row by row
        return [len(ids) for ids in data["input_ids"]] if "input_ids" in data.column_names else [1] * len(data)
    examples = (data[i] for i in range(len(data)))
    return [len(e["input_ids"]) if isinstance(e, Mapping) and "input_ids" in e else 1 for e in examples]


def pad_collate(examples: Sequence[Mapping], pad_token_id: int) -> dict[str, Tensor]:
    """Pad on the right to the longest example of the batch.

    returns input_ids (B, L), attention_mask (B, L) with 1 for tokens and 0 for padding, and labels: (B,) for class
    numbers, (B, L) for lists, whose padding is -100. Examples without `labels` give a batch without them.
    Raises ValueError for an empty batch, an empty example, or a list of labels that is not one per token.
    """
    if not examples:
        raise ValueError("cannot collate an empty batch")
    ids = [list(example["input_ids"]) for example in examples]
    longest = max(map(len, ids))
    if not min(map(len, ids)):
        raise ValueError("an example has no tokens: a model cannot attend to nothing; leave empty texts out")
    batch = {
        "input_ids": torch.tensor([row + [pad_token_id] * (longest - len(row)) for row in ids]),  # (B, L)
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids]),  # (B, L)
    }
    if "labels" in examples[0]:
        labels = [example["labels"] for example in examples]
        if isinstance(labels[0], Sequence):
            if wrong := [(len(y), len(x)) for y, x in zip(labels, ids, strict=True) if len(y) != len(x)]:
                raise ValueError(
                    f"an example has {wrong[0][0]} labels for {wrong[0][1]} tokens: give one per token, "
                    f"{IGNORED} where none is wanted"
                )
            labels = [[*row, *[IGNORED] * (longest - len(row))] for row in labels]
        batch["labels"] = torch.tensor(labels)  # (B,) or (B, L)
    return batch
