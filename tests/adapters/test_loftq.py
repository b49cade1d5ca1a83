"""LoftQ against algorithm 1 of the paper written out; as a method like the others: steps, copies, files, refusals."""

import copy
import json
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

from lora_course import (
    AdapterConfig,
    adapters,
    eject,
    inject,
    load_adapter,
    make_optimizer,
    merge,
    parameter_report,
    save_adapter,
)
from lora_course.adapters.loftq import LoftQ
from lora_course.adapters.oracles import ORACLES
from lora_course.quantization import dequantize_base, quantize_base
from lora_course.quantization.linear import NF4Layer
from tests.adapters.models import HEADS, batch, build

IN, OUT, RANK, ALPHA = 96, 80, 8, 5
kinds = pytest.mark.parametrize("kind", ["linear", "conv1d"])


def base_layer(kind="linear", n_in=IN, n_out=OUT, decay=0.9, seed=0):
    """A layer whose singular values fall, as those of trained weights do."""
    g = torch.Generator().manual_seed(seed)
    size = min(n_in, n_out)
    U = torch.linalg.qr(torch.randn(n_out, size, generator=g)).Q
    V = torch.linalg.qr(torch.randn(n_in, size, generator=g)).Q
    W = U @ torch.diag(decay ** torch.arange(size)) @ V.T
    layer = nn.Linear(n_in, n_out) if kind == "linear" else Conv1D(n_out, n_in)
    layer.weight.data.copy_(W if kind == "linear" else W.T)
    layer.bias.data.copy_(torch.randn(n_out, generator=g))
    return layer, W


def make(kind="linear", rank=RANK, alpha=ALPHA, rounds=LoftQ.rounds):
    layer, W = base_layer(kind)
    cls = type("LoftQ", (LoftQ,), {"rounds": rounds})
    return cls(layer, AdapterConfig("loftq", rank, alpha)), W


def error(adapter, W):
    """|| W - (Q + s B A) ||"""
    with torch.no_grad():
        return float((W - adapter.base_layer.dense() - adapter.delta_weight()).norm())


@kinds
@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_algorithm_1(kind, rounds):
    """Q and s B A after each number of rounds; A and B share the singular values, as in the paper."""
    adapter, W = make(kind, rounds=rounds)
    plain, _ = base_layer("linear")
    L, R = torch.zeros(OUT, RANK), torch.zeros(IN, RANK)  # the paper's: L R^T is s B A
    for _ in range(rounds):
        Q = NF4Layer(plain, W - L @ R.T).dense()
        U, S, Vh = torch.linalg.svd(W - Q)
        L, R = U[:, :RANK] * S[:RANK].sqrt(), (S[:RANK].sqrt().unsqueeze(1) * Vh[:RANK]).T
    assert_close(adapter.base_layer.dense(), Q, rtol=0, atol=0)
    s = ALPHA / RANK
    assert_close(adapter.delta_weight().detach(), L @ R.T, rtol=0, atol=ORACLES["loftq"].bar)
    assert_close(adapter.lora_B.norm(dim=0), adapter.lora_A.norm(dim=1), rtol=1e-4, atol=1e-6)
    assert_close(s * adapter.lora_B.norm(dim=0) ** 2, S[:RANK], rtol=1e-4, atol=1e-6)
    # Eckart and Young: what is left is the other singular values
    assert error(adapter, W) == pytest.approx(float(S[RANK:].norm()), rel=1e-4)


@pytest.mark.parametrize("rank", [1, 4, 16, 80])
def test_begins_nearer_to_the_weight_than_a_base_that_was_quantized_first(rank):
    layer, W = base_layer()
    qlora = float((W - NF4Layer(layer).dense()).norm())
    once, often = (error(make(rank=rank, rounds=rounds)[0], W) for rounds in (1, 5))
    assert often <= once < qlora
    if rank == 80:
        assert often < 1e-5 * float(W.norm())  # full rank holds the whole error
    assert math.isclose(error(make(rank=rank, alpha=64)[0], W), often, rel_tol=0.02)  # whatever s is


def test_outputs_begin_nearer_too():
    layer, W = base_layer()
    x = torch.randn(64, IN)
    expected = layer(x).detach()
    quantized = NF4Layer(layer)(x)
    assert (make(rank=16)[0](x) - expected).norm() < 0.9 * (quantized - expected).norm()


@kinds
def test_forward_is_lora_over_q(kind):
    adapter, _ = make(kind)
    x = torch.randn(3, 5, IN, requires_grad=True)
    W = adapter.base_layer.dense() + (ALPHA / RANK) * adapter.lora_B @ adapter.lora_A
    out, expected = adapter(x), F.linear(x, W, adapter.bias)
    assert_close(out, expected, rtol=1e-5, atol=1e-5)
    wanted, g = [x, adapter.lora_A, adapter.lora_B], torch.randn_like(out)
    assert_close(torch.autograd.grad(out, wanted, g), torch.autograd.grad(expected, wanted, g), rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in adapter.parameters() if p.requires_grad) == RANK * (IN + OUT)
    assert LoftQ.count_trainable(IN, OUT, RANK) == RANK * (IN + OUT)


def test_the_layer_it_is_made_from_stays_as_it_was():
    layer, W = base_layer()
    LoftQ(layer, AdapterConfig("loftq", RANK, ALPHA))
    assert torch.equal(layer.weight.detach(), W)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    layer, W = base_layer()
    adapter = LoftQ(layer.to(dtype), AdapterConfig("loftq", RANK, ALPHA))
    assert adapter.lora_A.dtype == adapter.lora_B.dtype == adapter.weight.dtype == dtype
    assert adapter(torch.randn(2, IN, dtype=dtype)).dtype == dtype
    assert error(adapter, W) < float((W - NF4Layer(layer).dense().float()).norm())


def model_with(name, **more):
    targets = {"bert": ["query", "output.dense"], "gpt2": ["c_attn", "mlp.c_proj"], "llama": "all-linear", "t5": ["wo"]}
    return inject(build(name), AdapterConfig("loftq", 3, 5, targets[name], trainable=HEADS[name], **more))


def train(model, name, steps=2):
    optimizer = make_optimizer(model, lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch(name)).loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
def test_trains_copies_and_comes_back_from_a_file(name, tmp_path):
    model = model_with(name)
    before = model(**batch(name)).loss.item()
    packed = {key: b.clone() for key, b in model.named_buffers()}
    train(model, name)
    out = model(**batch(name))
    assert out.loss.item() < before
    assert all(torch.equal(b, packed[key]) for key, b in model.named_buffers())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(**batch(name)).logits, out.logits)
    save_adapter(model, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["method"] == "loftq"
    again = load_adapter(build(name), tmp_path)
    assert torch.equal(again(**batch(name)).logits, out.logits)
    assert all(isinstance(a, LoftQ) and isinstance(a.base_layer, NF4Layer) for a in adapters(again).values())
    other = load_adapter(build(name, seed=3), tmp_path)  # the file holds Q, so the layers are the file's
    for key, adapter in adapters(model).items():
        assert torch.equal(adapters(other)[key].base_layer.dense(), adapter.base_layer.dense())


def test_a_file_that_does_not_fit_leaves_the_model_as_it_was(tmp_path):
    from safetensors.torch import load_file, save_file

    save_adapter(model_with("bert"), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    key = next(k for k in tensors if k.endswith("quantized.codes"))
    save_file({k: t for k, t in tensors.items() if k != key}, path)
    model = build("bert")
    before = repr(model), {k: t.clone() for k, t in model.state_dict().items()}
    with pytest.raises(ValueError, match="missing .*quantized.codes"):
        load_adapter(model, tmp_path)
    assert repr(model) == before[0] and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(t, before[1][k]) for k, t in model.state_dict().items())


def test_peft_refuses_the_file_by_name(tmp_path):
    """It would add A and B to W, which they were not made for."""
    import peft

    save_adapter(model_with("bert"), tmp_path)
    with pytest.raises((KeyError, ValueError, TypeError), match="peft_type|PeftConfig"):
        peft.PeftModel.from_pretrained(build("bert"), tmp_path)


def test_refuses_what_it_cannot_do():
    config = AdapterConfig("loftq", 3, 5, ["query", "word_embeddings"])
    with pytest.raises(ValueError, match="word_embeddings.*not for an embedding"):
        inject(build("bert"), config)
    with pytest.raises(ValueError, match="loftq quantizes the base itself"):
        inject(quantize_base(build("bert")), AdapterConfig("loftq", 3, 5))
    with pytest.raises(ValueError, match="rank can be at most 24"):
        inject(build("bert"), AdapterConfig("loftq", 25, 5))
    with pytest.raises(ValueError, match="loftq changes the base weight, and that of 'lm_head'"):
        inject(build("llama"), AdapterConfig("loftq", 3, 5, ["lm_head"]))
    model = build("bert")
    model.bert.encoder.layer[0].output.dense.weight.data[0, 0] = math.inf
    with pytest.raises(ValueError, match="'bert.encoder.layer.0.output.dense'.*NaN or infinity"):
        inject(model, AdapterConfig("loftq", 3, 5))
    assert not adapters(model) and all(p.requires_grad for p in model.parameters())
    with torch.device("meta"), pytest.raises(ValueError, match="no values"):
        LoftQ(nn.Linear(8, 8), AdapterConfig("loftq", 3))


def test_merge_is_refused_until_the_base_is_whole_again_and_eject_leaves_it():
    model = train(model_with("gpt2"), "gpt2")
    out = model(**batch("gpt2")).logits
    with pytest.raises(ValueError, match="a base of nf4.*dequantize_base"):
        merge(model)
    twin = eject(copy.deepcopy(model))
    assert isinstance(twin.transformer.h[0].attn.c_attn, NF4Layer) and not adapters(twin)
    eject(merge(dequantize_base(model)))
    assert_close(model(**batch("gpt2")).logits, out, rtol=1e-5, atol=1e-5)
    assert isinstance(model.transformer.h[0].attn.c_attn, Conv1D)


def test_the_report_counts_the_packed_base():
    model = build("bert")
    total = parameter_report(model).total
    rows = {row.part: row for row in parameter_report(model_with("bert")).rows}
    assert rows["frozen base"].frozen + rows["trained whole"].trainable == total
    layers = adapters(model_with("bert")).values()
    assert rows["adapters"].trainable == sum(3 * (a.in_features + a.out_features) for a in layers)
    assert rows["adapters"].frozen == 0
