"""Which review goes into train, validation or test: fixed, disjoint, without duplicates.

Two texts count as the same if they differ only in case, spaces, punctuation or line-break tags: "a pretentious mess"
in train and ". . . a pretentious mess . . ." in test would be a leak. The order is that of a hash of each text, which
is a shuffle that comes out the same with every version of every library, and barely moves if a text is added.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

_IGNORED = re.compile(r"(?:<br\s*/?>|[\W_])+")


def text_key(text: str) -> str:
    """What is compared when looking for duplicates; empty only for an empty text."""
    return _IGNORED.sub(" ", text.casefold()).strip() or text.strip()


def first_copies(keys: Sequence[str], labels: Sequence[int]) -> list[int]:
    """Indices of the first copy of each text, in order; empty texts, and copies with contradicting labels, go."""
    first: dict[str, int] = {}
    contradicting = set()
    for i, key in enumerate(keys):
        if labels[first.setdefault(key, i)] != labels[i]:
            contradicting.add(key)
    return [i for key, i in first.items() if key and key not in contradicting]


def hashed_order(indices: Sequence[int], keys: Sequence[str], seed: int) -> list[int]:
    """`indices` shuffled by a hash of `seed` and their texts."""
    return sorted(indices, key=lambda i: hashlib.sha256(f"{seed} {keys[i]}".encode()).digest())


def hold_out(indices: Sequence[int], labels: Sequence[int], count: int) -> tuple[list[int], list[int]]:
    """(held out, rest): the first `count` of `indices` that keep the labels' proportions.

    Both keep their order, but where one label's quota is reached first, `rest` begins with a run of it: shuffle again.
    Raises ValueError if there are not more than `count`.
    """
    if not 0 <= count < len(indices):
        raise ValueError(f"cannot hold out {count} of {len(indices)} texts")
    quota, reached = {}, 0
    for label, size in sorted(Counter(labels[i] for i in indices).items()):
        quota[label] = round(count * (reached + size) / len(indices)) - round(count * reached / len(indices))
        reached += size  # rounding the running total, so that the quotas add up to `count`
    held, rest = [], []
    for i in indices:
        (held if quota[labels[i]] > 0 else rest).append(i)
        quota[labels[i]] -= 1
    return held, rest


def split_reviews(texts: Sequence[str], labels: Sequence[int], test: int, validation: int) -> dict[str, list[int]]:
    """Indices of the three splits of one body of texts; `test` and `validation` are numbers of texts."""
    keys = [text_key(text) for text in texts]
    parts = {"train": hashed_order(first_copies(keys, labels), keys, seed=0)}
    for split, count in (("test", test), ("validation", validation)):
        parts[split], parts["train"] = hold_out(parts["train"], labels, count)
    return {split: hashed_order(parts[split], keys, seed=1) for split in ("train", "validation", "test")}
