"""Around calls of from_pretrained and load_dataset: silence where it is wanted, one clear error where they fail."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from lora_course.assets.pinned import AssetError


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no load report from transformers inside; its settings are put back afterwards."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def explained(kind: str, name: str, packaged: str) -> Iterator[None]:
    """Turn whatever fails inside into an AssetError saying what to do; kind: "model" or "dataset"."""
    try:
        yield
    except Exception as error:  # the libraries below let through each other's errors, which share no base class
        cause = f"cannot load the {kind} {name!r} ({type(error).__name__}: {str(error).strip().splitlines()[0]})"
        if Path(name).is_dir():
            raise AssetError(f"{cause}. It is a folder here: does it hold a whole {kind}, as saved?") from error
        switch = next((key for key in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE") if os.environ.get(key)), None)
        offline = f"{switch} is set, which forbids downloads: unset it. " if switch else ""
        option = " --repo-type dataset" if kind == "dataset" else ""
        raise AssetError(
            f"{cause}.\nIt is no folder here, so it must come from the Hugging Face hub. {offline}Check the spelling "
            f"and the network; or download it beforehand, where there is a network, with `hf download {name}{option}`; "
            f"or use {packaged}, which needs no hub."
        ) from error
