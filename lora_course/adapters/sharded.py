"""What does not work on parameters that are spread over processes, each holding a part (FSDP's DTensors)."""

from collections.abc import Iterable

from torch import Tensor


def refuse_sharded(tensors: Iterable[Tensor], who: str, way_out: str) -> None:
    """Raise ValueError if one of them is only a part: `who` needs them whole; `way_out` says what to do instead."""
    if any(hasattr(tensor, "full_tensor") for tensor in tensors):
        raise ValueError(f"{who} needs whole parameters, and these are sharded over processes: {way_out}")
