"""Both libraries give the product, and the one that is chosen is the one that should be."""

import platform

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.testing import assert_close

from lora_course import products
from lora_course.adapters.fused import plain_forward
from lora_course.quantization import quantize_base
from tests.adapters.test_fused import STEPS, OneMask, layer_of, outcome, x_of

ZEN5 = "vendor_id\t: AuthenticAMD\nflags\t: fma avx2 avx512f"
INTEL = "vendor_id\t: GenuineIntel\nflags\t: fma avx2 avx512f"
needs_onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch has no oneDNN product"
)


@pytest.fixture
def machine(monkeypatch):
    """Says what the processor is; afterwards the question is open again."""

    def pretend(text=ZEN5, capability="AVX512"):
        products.mkl_leaves_avx512_idle.cache_clear()
        monkeypatch.setattr(products, "processor", lambda: text)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)

    yield pretend
    products.mkl_leaves_avx512_idle.cache_clear()


@pytest.fixture(params=[pytest.param("oneDNN", marks=needs_onednn), "MKL"])
def library(request, machine, monkeypatch):
    machine(ZEN5 if request.param == "oneDNN" else INTEL)
    monkeypatch.setattr(products, "WORTH_IT", 1)
    return request.param


@pytest.mark.parametrize("x_strides", ["rows", "columns"])
@pytest.mark.parametrize("y_strides", ["rows", "columns"])
@pytest.mark.parametrize("shape", [(70, 45, 33), (1, 45, 33), (70, 1, 33), (70, 45, 1)])
@torch.no_grad()
def test_products(shape, y_strides, x_strides, library):
    n, d, k = shape
    torch.manual_seed(0)
    x = torch.randn(n, d) if x_strides == "rows" else torch.randn(d, n).T
    y = torch.randn(d, k) if y_strides == "rows" else torch.randn(k, d).T
    u, v, bias = torch.randn(n, 3), torch.randn(3, k), torch.randn(k)
    assert products.onednn_takes(x, y) == (library == "oneDNN")
    for addends in ({}, {"bias": bias}):
        assert_rounded(products.mm(x, y, **addends), [(x, y)], **addends)
        assert_rounded(products.mm_plus(u, v, x, y, **addends), [(u, v), (x, y)], **addends)


def assert_rounded(result, factors, bias=None):
    """Within what float32 may lose in so many additions, whatever their order (Higham 2002, section 3.1)."""
    terms = [(a.double(), b.double()) for a, b in factors]
    exact, size = (sum(op(a) @ op(b) for a, b in terms) for op in (torch.Tensor.clone, torch.abs))
    if bias is not None:
        exact, size = exact + bias, size + bias.abs()
    additions = sum(a.shape[1] for a, _ in factors) + 1
    assert ((result - exact).abs() <= additions * 2**-24 * size).all()


def test_an_empty_batch(library):
    x, y = torch.empty(0, 5), torch.randn(5, 4)
    assert products.mm(x, y).shape == products.mm_plus(torch.empty(0, 2), torch.randn(2, 4), x, y).shape == (0, 4)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("method", STEPS)
def test_steps_in_float32(method, kind, dropout, library):
    layer, x = layer_of(method, kind, dropout, torch.float32), x_of(torch.float32)
    if dropout:
        layer.dropout = OneMask(x, dropout)
    quick = outcome(layer, x)
    with plain_forward():
        plain = outcome(layer, x)
    for ours, theirs in zip(quick, plain, strict=True):
        assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@needs_onednn
@torch.no_grad()
def test_who_gets_onednn(machine):
    x, y = torch.randn(128, 128), torch.randn(128, 128)
    machine(ZEN5)
    assert products.onednn_takes(x, y)
    assert products.onednn_takes(x, torch.nn.Parameter(y))
    assert products.onednn_takes(x.T, y.T)
    assert products.onednn_takes(torch.randn(128, 140)[:, 12:], y)
    assert not products.onednn_takes(x, torch.randn(128, 140)[:, 12:])
    assert not products.onednn_takes(x, torch.randn(128, 140)[:, 12:].T)
    assert not products.onednn_takes(x[:10], y[:, :10].contiguous())
    assert not products.onednn_takes(x.double(), y.double())
    assert not products.onednn_takes(x.to("meta"), y.to("meta"))
    with FakeTensorMode():
        assert not products.onednn_takes(torch.randn(128, 128), torch.randn(128, 128))
    for instead in (products.as_torch_multiplies(), torch.enable_grad(), torch.autocast("cpu", torch.bfloat16)):
        with instead:
            assert not products.onednn_takes(x, y)
    assert products.onednn_takes(x, y)
    for other in (INTEL, ""):
        machine(other)
        assert not products.onednn_takes(x, y)
    machine(ZEN5, "AVX2")
    assert not products.onednn_takes(x, y)


def test_the_processor_where_there_is_no_file_about_it(monkeypatch, tmp_path):
    monkeypatch.setattr(products, "Path", lambda name: tmp_path / "missing")
    monkeypatch.setenv("PROCESSOR_IDENTIFIER", "AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD")
    assert "AuthenticAMD" in products.processor()
    monkeypatch.delenv("PROCESSOR_IDENTIFIER")
    assert products.processor() == ""


@pytest.mark.parametrize("format", ["nf4", "int8"])
def test_quantized_layers(format, library):
    torch.manual_seed(0)
    base = torch.nn.Linear(96, 40)
    layer, x = quantize_base(torch.nn.Sequential(base), format=format)[0], torch.randn(2, 9, 96, requires_grad=True)
    g = torch.randn(2, 9, 40)
    dense = layer.weight.detach()
    assert_close(layer(x), F.linear(x, dense, base.bias), rtol=1e-5, atol=1e-5)
    assert_close(torch.autograd.grad(layer(x), x, g)[0], g @ dense, rtol=1e-5, atol=1e-5)
    assert layer(x[:, :0]).shape == (2, 0, 40)


@needs_onednn
def test_a_comparison_of_steps_can_do_without(machine, monkeypatch):
    """Also in the backward pass."""
    machine(ZEN5)
    monkeypatch.setattr(products, "WORTH_IT", 1)
    takes, answers = products.onednn_takes, []
    monkeypatch.setattr(products, "onednn_takes", lambda x, y: answers.append(takes(x, y)) or answers[-1])
    layer, x = layer_of("lora", dtype=torch.float32), x_of(torch.float32)
    outcome(layer, x)
    assert len(answers) > 4 and all(answers)
    count = len(answers)
    with products.as_torch_multiplies():
        outcome(layer, x)
    assert len(answers) > count + 4 and not any(answers[count:])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("vendor_id\t: X\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: Some CPU\n", "Some CPU (family 26, model 2)"),
        ("AMD64 Family 25", "AMD64 Family 25"),
        ("", platform.machine()),
    ],
)
def test_the_name_of_the_processor(monkeypatch, text, name):
    monkeypatch.setattr(products, "processor", lambda: text)
    assert products.processor_name() == name
