"""Matrix products, for steps whose backward pass is written by hand.

On x86 torch gives float32 products to Intel's MKL. On AMD processors MKL does not use AVX-512, and reaches half of what
those that have it can do. oneDNN, which torch brings along too, goes by what the processor can do and not by who made
it. There, and only there, it takes the products: the same float32 arithmetic, added up in another order. The price is
memory outside of tensors: it keeps a kernel of about 1 MiB for each shape of the last thousand, and batches of texts
have many lengths.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

WORTH_IT = 2**20  # multiplications; below, the last bit of agreement with the base layer is worth more than the time
_ONEDNN_TOO = ContextVar("oneDNN too", default=True)


def mm(x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    """x y + bias for x (n, d), y (d, k) and bias (k,) or None."""
    if onednn_takes(x, y):
        return _by_onednn(x, y, bias)
    return torch.mm(x, y) if bias is None else torch.addmm(bias, x, y)


def mm_plus(u: Tensor, v: Tensor, x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    """u v + x y + bias as one tensor (n, k), for a small u v: u (n, r), v (r, k), x (n, d), y (d, k)."""
    if onednn_takes(x, y):
        return _by_onednn(x, y, bias).addmm_(u, v)
    return mm(u, v, bias).addmm_(x, y)  # MKL hides the writing of what it adds to, so the large product comes last


def _by_onednn(x: Tensor, y: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, y.T, bias, "none", [], "")


@contextmanager
def as_torch_multiplies() -> Iterator[None]:
    """Inside this block all products are torch.mm's, so that steps are compared and not libraries."""
    token = _ONEDNN_TOO.set(False)
    try:
        yield
    finally:
        _ONEDNN_TOO.reset(token)


def onednn_takes(x: Tensor, y: Tensor) -> bool:
    """Whether oneDNN multiplies these: large float32 matrices in the memory of a CPU where it is the faster one."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False  # its product cannot be traced, differentiated or cast
    if not (y.is_contiguous() or y.T.is_contiguous()):
        return False  # for a slice as second factor it falls back on a loop, a thousand times as slow
    if x.numel() * y.shape[1] < WORTH_IT or not (mkl_leaves_avx512_idle() and _ONEDNN_TOO.get()):
        return False
    return all(type(t) in (Tensor, Parameter) and t.is_cpu and t.dtype == torch.float32 for t in (x, y))


@cache
def mkl_leaves_avx512_idle() -> bool:
    """Whether this is an AMD processor with AVX-512, and a torch with oneDNN's product in it."""
    able = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()
    return able and "AuthenticAMD" in processor() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def processor_name() -> str:
    """For people: the name, family and model of the first processor, or what kind it is."""
    said = dict(re.findall(r"^(model name|cpu family|model)\s*: (.+)$", processor(), re.MULTILINE))
    if "model name" not in said:
        return processor() or platform.machine()
    return f"{said['model name']} (family {said.get('cpu family', '?')}, model {said.get('model', '?')})"


def processor() -> str:
    """What the system says of the first processor. Linux and Windows name its maker."""
    try:
        return Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return os.environ.get("PROCESSOR_IDENTIFIER", "")
