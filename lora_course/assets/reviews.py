"""Reviews with a label, as a `datasets.DatasetDict` of train, validation and test: packaged, or any from the hub.

The packaged sets stay in memory (a few MB), so that `map` writes no cache files beside them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_course.assets.catalogue import HELD_OUT, REVIEWS
from lora_course.assets.hub import explained
from lora_course.assets.pinned import AssetError
from lora_course.assets.splits import first_copies, hashed_order, hold_out, text_key
from lora_course.assets.store import ensure

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SPLITS = ("train", "validation", "test")
PACKAGED = " or ".join(f'"{name}"' for name in HELD_OUT)
# Cut off a hub dataset's train split where it has none of its own: a tenth of it, and at most this many.
MOST_HELD_OUT = {"validation": 1000, "test": 2500}


def load_reviews(
    name: str = "rotten_tomatoes", *, max_words: int | None = None, progress: bool = True
) -> DatasetDict:
    """Fixed, disjoint train, validation and test splits without duplicates; columns text (str), label (ClassLabel).

    name: "rotten_tomatoes" (6 528 / 500 / 1 500 sentences) or "imdb" (21 401 / 1 000 / 2 500 reviews; the public
    test split is not in it, it is "stanfordnlp/imdb" on the hub), labels 0 negative, 1 positive; or any hub name or
    folder that `datasets.load_dataset` takes. Of those, the test and validation splits are kept, or cut off train
    where they are missing; texts without a label, repeated texts, and those of train that occur in test or
    validation, go. The order is shuffled, always in the same way, so that the first n texts are a fair sample.

    max_words: keep only the texts of at most so many words, of every split (of Rotten Tomatoes, up to 18: 2 762 / 202
    / 640), for runs that must be short; nothing is cut off a text.

    Raises AssetError if the data cannot be had, or lacks a train split, text or label, or is too small to split;
    ValueError if a split has no text so short.
    """
    splits = _packaged(name, progress) if name in HELD_OUT else _from_hub(name)
    if max_words is not None:
        for split, texts in splits.items():
            splits[split] = texts.select([i for i, text in enumerate(texts["text"]) if len(text.split()) <= max_words])
            if not len(splits[split]):
                shortest = min(len(text.split()) for text in texts["text"])
                raise ValueError(f"max_words={max_words}: the shortest text of {split} in {name!r} has {shortest}")
    return splits


def _packaged(name: str, progress: bool) -> DatasetDict:
    import pyarrow.parquet
    from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, NamedSplit, Value

    folder = ensure(REVIEWS, progress)
    info = DatasetInfo(features=Features(text=Value("string"), label=ClassLabel(names=["negative", "positive"])))
    return DatasetDict(
        {
            split: Dataset(
                pyarrow.parquet.read_table(folder / name / f"{split}.parquet"),
                info=info.copy(),
                split=NamedSplit(split),
                fingerprint=f"{folder.name}-{name}-{split}",  # `datasets` would hash the whole table for it
            )
            for split in SPLITS
        }
    )


def _from_hub(name: str) -> DatasetDict:
    from datasets import DatasetDict, load_dataset

    with explained("dataset", name, PACKAGED):
        loaded = load_dataset(name)
    if "train" not in loaded:
        raise AssetError(f"the dataset {name!r} has no train split, only {', '.join(loaded)}")
    for split in [s for s in SPLITS if s in loaded]:
        if not {"text", "label"} <= set(loaded[split].column_names):
            columns = ", ".join(loaded[split].column_names)
            raise AssetError(
                f"the dataset {name!r} needs the columns text and label; its {split} split has {columns}. Rename "
                f"them, save each split as a parquet or CSV file in one folder and name that; or use {PACKAGED}."
            )
    return DatasetDict(disjoint_splits({s: loaded[s].select_columns(["text", "label"]) for s in SPLITS if s in loaded}))


def disjoint_splits(loaded: dict[str, Dataset]) -> dict[str, Dataset]:
    """Train, validation and test that share no text; `loaded` has train at least, each with columns text and label."""
    from datasets import ClassLabel

    if loaded["train"].features["label"].dtype in ("string", "large_string"):
        names = sorted({label for part in loaded.values() for label in part.unique("label") if label is not None})
        loaded = {split: part.cast_column("label", ClassLabel(names=names)) for split, part in loaded.items()}

    seen: set[str] = set()
    parts: dict[str, Dataset] = {}
    for split in [s for s in ("test", "validation", "train") if s in loaded]:  # what occurs in test goes elsewhere
        labels = [-1 if label is None else label for label in loaded[split]["label"]]
        keys = [text_key(text or "") if labels[i] >= 0 else "" for i, text in enumerate(loaded[split]["text"])]
        kept = hashed_order([i for i in first_copies(keys, labels) if keys[i] not in seen], keys, seed=0)
        seen.update(keys[i] for i in kept)
        if split == "train":
            if len(kept) < 10:
                raise AssetError(f"too few texts: train has only {len(kept)} with a label that no other split has")
            for missing in [s for s in MOST_HELD_OUT if s not in parts]:
                held, kept = hold_out(kept, labels, min(len(kept) // 10, MOST_HELD_OUT[missing]))
                parts[missing] = loaded["train"].select(hashed_order(held, keys, seed=1))
        if kept:
            parts[split] = loaded[split].select(hashed_order(kept, keys, seed=1))
    return {split: parts[split] for split in SPLITS}
