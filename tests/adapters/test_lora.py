"""The layer alone: equations, kinds of layer, dtypes, and properties over random shapes."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

from lora_course import AdapterConfig
from lora_course.adapters import LoRA

IN, OUT, RANK, ALPHA = 13, 9, 3, 5


def make(kind, in_features=IN, out_features=OUT, rank=RANK, alpha=ALPHA, dropout=0.0, random=True, seed=0):
    torch.manual_seed(seed)
    base = {
        "linear": lambda: nn.Linear(in_features, out_features),
        "conv1d": lambda: Conv1D(out_features, in_features),
        "embedding": lambda: nn.Embedding(in_features, out_features, padding_idx=0),
    }[kind]()
    layer = LoRA(base, AdapterConfig(rank=rank, alpha=alpha, dropout=dropout))
    if random:
        nn.init.normal_(layer.lora_A)
        nn.init.normal_(layer.lora_B)
        if kind == "embedding":  # training never moves the padding token's column of A from zero
            layer.lora_A.data[:, 0] = 0
    return layer


def inputs(layer, seed=1):
    g = torch.Generator().manual_seed(seed)
    if layer.kind == "embedding":
        return torch.randint(layer.in_features, (4, 6), generator=g)
    return torch.randn(4, 6, layer.in_features, generator=g)


KINDS = ["linear", "conv1d", "embedding"]


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_equation_in_float64(kind):
    layer = make(kind).double()
    x = inputs(layer)
    rows = nn.functional.one_hot(x, IN).double() if kind == "embedding" else x.double()
    W = layer.weight if kind == "linear" else layer.weight.T
    b = 0 if kind == "embedding" else layer.bias
    expected = rows @ W.T + b + (ALPHA / RANK) * rows @ layer.lora_A.T @ layer.lora_B.T
    assert_close(layer(rows if kind != "embedding" else x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_of_the_materialised_weight(kind):
    """d(loss)/dA and /dB of the branch against autograd through W + s B A."""
    layer = make(kind).double()
    x = inputs(layer)
    x = x if kind == "embedding" else x.double()
    out = layer(x)
    g = torch.randn_like(out)
    got = torch.autograd.grad(out, [layer.lora_A, layer.lora_B], g)
    full = layer.weight.T + layer.delta_weight() if kind != "linear" else layer.weight + layer.delta_weight()
    if kind == "embedding":
        dense = nn.functional.embedding(x, full.T, padding_idx=0)
    else:
        dense = nn.functional.linear(x, full, layer.bias)
    assert_close(got, torch.autograd.grad(dense, [layer.lora_A, layer.lora_B], g), rtol=0, atol=1e-12)
    assert layer.weight.grad is None and not layer.weight.requires_grad


def test_initialisation():
    layer = make("linear", in_features=400, random=False)
    bound = 1 / math.sqrt(400)  # kaiming_uniform_(a=sqrt 5) on r rows of 400: sqrt(6 / (1 + 5) / fan_in)
    assert float(layer.lora_A.detach().abs().max()) <= bound and float(layer.lora_A.detach().std()) == pytest.approx(
        bound / math.sqrt(3), rel=0.05
    )
    assert not layer.lora_B.any()
    embedding = make("embedding", random=False)
    assert not embedding.lora_A.any() and embedding.lora_B.all()


@pytest.mark.usefixtures("plain")
def test_dropout_is_on_the_branch_only():
    layer = make("linear", dropout=0.5).train()
    x = inputs(layer)
    torch.manual_seed(3)
    out = layer(x)
    torch.manual_seed(3)
    dropped = nn.functional.dropout(x, 0.5)
    expected = layer.base_layer(x) + (ALPHA / RANK) * dropped @ layer.lora_A.T @ layer.lora_B.T
    assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(layer.eval()(x), layer(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtype_follows_the_base(kind, dtype):
    torch.manual_seed(0)
    layer = LoRA(make(kind).base_layer.to(dtype), AdapterConfig(rank=RANK))
    assert layer.lora_A.dtype == layer.lora_B.dtype == dtype
    x = inputs(layer)
    x = x if kind == "embedding" else x.to(dtype)
    assert layer(x).dtype == dtype
    layer.merge()
    assert layer.weight.dtype == dtype


def test_half_precision_merge_rounds_once():
    layer = make("linear").bfloat16()
    W, delta = layer.weight.float(), (ALPHA / RANK) * layer.lora_B.float() @ layer.lora_A.float()
    delta = delta.detach()
    layer.merge()
    # the change is rounded to bfloat16 and so is the sum: at most 1 unit in the last of 8 bits of the larger operand
    assert_close(layer.weight.float(), W + delta, rtol=2**-7, atol=2**-7 * float(delta.abs().max()))


def test_meta_device():
    with torch.device("meta"):
        layer = LoRA(nn.Linear(IN, OUT), AdapterConfig(rank=RANK))
    assert layer.lora_A.is_meta and layer(torch.empty(2, IN, device="meta")).shape == (2, OUT)


@pytest.mark.parametrize("kind", KINDS)
def test_pickle_and_deepcopy(kind):
    layer = make(kind)
    x = inputs(layer)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
        nn.init.zeros_(twin.lora_B)
        assert not torch.equal(twin(x), layer(x))


@pytest.mark.usefixtures("plain")
def test_compiles_to_the_same_numbers():
    layer = make("linear")
    x = inputs(layer)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert_close(compiled(x), layer(x), rtol=0, atol=1e-6)
    grads = [torch.autograd.grad(f(x).square().sum(), layer.lora_A)[0] for f in (compiled, layer)]
    assert_close(*grads, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("layer", [nn.LayerNorm(4), nn.Conv2d(1, 2, 3), nn.Embedding(4, 3, max_norm=1.0)])
def test_refuses_what_it_cannot_adapt(layer):
    with pytest.raises((TypeError, ValueError), match="cannot adapt"):
        LoRA(layer, AdapterConfig())


shapes = st.integers(1, 24)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    n_in=shapes,
    n_out=shapes,
    rank=st.integers(1, 8),
    alpha=st.floats(0.1, 64),
    seed=st.integers(0, 2**16),
)
def test_properties(kind, n_in, n_out, rank, alpha, seed):
    layer = make(kind, n_in, n_out, rank, alpha, random=False, seed=seed)
    x = inputs(layer)
    assert torch.equal(layer(x), layer.base_layer(x))  # identity at init
    nn.init.normal_(layer.lora_A), nn.init.normal_(layer.lora_B)
    layer = layer.double()
    x = x if kind == "embedding" else x.double()
    trainable = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    assert trainable == rank * (n_in + n_out)
    assert torch.linalg.matrix_rank(layer.delta_weight()) <= rank
    W, out = layer.weight.clone(), layer(x)
    layer.merge()
    assert_close(layer(x), out, rtol=1e-9, atol=1e-9)
    layer.unmerge()
    assert_close(layer.weight, W, rtol=1e-9, atol=1e-9)
