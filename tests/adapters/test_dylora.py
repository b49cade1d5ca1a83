"""DyLoRA: every truncation is the LoRA of that rank, in outputs and gradients; draws repeat under a seed."""

import copy
import pickle

import peft
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from lora_course import AdapterConfig, adapters, inject, make_optimizer, merge, parameter_report, save_adapter, unmerge
from lora_course.adapters import LoRA
from lora_course.adapters.dylora import DyLoRA, set_rank, truncate
from lora_course.adapters.oracles import ORACLES
from tests.adapters.models import HEADS, batch, build

IN, OUT, RANK, ALPHA = 13, 9, 5, 7
TARGETS = {"bert": ["query", "word_embeddings"], "gpt2": ["c_attn", "wte"], "llama": "all-linear", "t5": ["q", "wo"]}


def make(kind="linear", dropout=0.0, seed=0):
    torch.manual_seed(seed)
    base = {
        "linear": lambda: nn.Linear(IN, OUT),
        "conv1d": lambda: Conv1D(OUT, IN),
        "embedding": lambda: nn.Embedding(IN, OUT),
    }[kind]()
    layer = DyLoRA(base, AdapterConfig(method="dylora", rank=RANK, alpha=ALPHA, dropout=dropout))
    nn.init.normal_(layer.lora_A), nn.init.normal_(layer.lora_B)
    return layer.eval()


def inputs(layer):
    g = torch.Generator().manual_seed(1)
    if layer.kind == "embedding":
        return torch.randint(IN, (4, 6), generator=g)
    return torch.randn(4, 6, IN, generator=g)


def plain(layer, b):
    """LoRA of rank b and the same alpha, with the first b rows and columns."""
    lora = LoRA(layer.base_layer, AdapterConfig(rank=b, alpha=ALPHA, dropout=layer.config.dropout))
    lora.lora_A.data, lora.lora_B.data = layer.lora_A.data[:b].clone(), layer.lora_B.data[:, :b].clone()
    return lora.train(layer.training)


KINDS = ["linear", "conv1d", "embedding"]


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("b", range(1, RANK + 1))
def test_each_truncation_is_the_lora_of_that_rank(kind, b):
    layer = set_rank(make(kind), b)
    x, lora = inputs(layer), plain(layer, b)
    assert_close(layer(x), lora(x), rtol=0, atol=1e-6)  # B[:, :b] is a view with other strides: another matmul kernel
    assert torch.equal(layer.delta_weight(), lora.delta_weight())
    assert torch.linalg.matrix_rank(layer.delta_weight()) == b
    assert torch.equal(layer.as_lora(b)(x), lora(x))


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("kind", KINDS)
def test_training_draws_a_rank_and_trains_only_that_much(kind):
    oracle = ORACLES["dylora"]
    dtype, close = getattr(torch, oracle.dtype), {"rtol": 0, "atol": oracle.bar}
    layer = make(kind, dropout=0.3 if kind != "embedding" else 0.0).to(dtype).train()
    x, drawn = inputs(layer), set()
    x = x if kind == "embedding" else x.to(dtype)
    for seed in range(12):
        torch.manual_seed(seed)
        b = int(torch.randint(1, RANK + 1, ()))
        drawn.add(b)
        lora = plain(layer, b)
        torch.manual_seed(seed)
        out = layer(x)
        torch.manual_seed(seed)
        torch.randint(1, RANK + 1, ())  # the draw comes before the dropout mask
        expected = lora(x)
        assert_close(out, expected, **close)
        g = torch.autograd.grad(out.square().mean(), [layer.lora_A, layer.lora_B])
        h = torch.autograd.grad(expected.square().mean(), [lora.lora_A, lora.lora_B])
        assert_close(g[0][:b], h[0], **close), assert_close(g[1][:, :b], h[1], **close)
        assert g[0][b - 1].any() and not g[0][b:].any() and not g[1][:, b:].any()
    assert len(drawn) >= 4


def test_every_rank_is_as_likely():
    layer = make().train()
    nn.init.ones_(layer.lora_A), nn.init.ones_(layer.lora_B)
    x, counts = torch.ones(1, IN), torch.zeros(RANK)
    torch.manual_seed(0)
    for _ in range(1000):
        layer.lora_A.grad = None
        layer(x).sum().backward()
        counts[int(layer.lora_A.grad.any(dim=1).sum()) - 1] += 1
    assert (counts / 1000 - 1 / RANK).abs().max() < 4 * (0.16 / 1000) ** 0.5  # 4 standard deviations


def test_layers_draw_apart_and_a_seed_repeats_a_run():
    def run(seed):
        torch.manual_seed(3)
        config = AdapterConfig(method="dylora", rank=RANK, target_modules=["query"], trainable=["classifier"])
        model = inject(build("bert"), config).train()
        optimizer = make_optimizer(model, lr=1e-2)
        torch.manual_seed(seed)
        for _ in range(4):
            optimizer.zero_grad()
            model(**batch("bert")).loss.backward()
            optimizer.step()
        return model, [int(a.lora_B.grad.any(dim=0).sum()) for a in adapters(model).values()]

    first, again, other = run(0), run(0), run(1)
    assert all(torch.equal(p, q) for p, q in zip(first[0].parameters(), again[0].parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(first[0].parameters(), other[0].parameters(), strict=True))
    assert any(len(set(ranks)) > 1 for _, ranks in (first, other))


@pytest.mark.parametrize("name", TARGETS)
def test_truncated_model_and_its_file_in_peft(name, tmp_path):
    config = AdapterConfig(method="dylora", rank=RANK, alpha=ALPHA, target_modules=TARGETS[name], trainable=HEADS[name])
    model = inject(build(name), config)
    for adapter in adapters(model).values():
        nn.init.normal_(adapter.lora_A, std=0.2), nn.init.normal_(adapter.lora_B, std=0.2)
    full = model(**batch(name)).logits
    expected = set_rank(model, 2)(**batch(name)).logits
    assert not torch.allclose(full, expected, atol=1e-3)
    trained = parameter_report(model).rows[0].trainable
    wide = sum(a.in_features + a.out_features for a in adapters(model).values())
    assert trained == RANK * wide
    truncate(model, 2)
    assert all(type(a) is LoRA for a in adapters(model).values())
    assert parameter_report(model).rows[0].trainable == 2 * wide
    assert_close(model(**batch(name)).logits, expected, rtol=0, atol=2e-6)
    save_adapter(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(build(name), tmp_path).eval()
    assert torch.equal(theirs(**batch(name)).logits, model(**batch(name)).logits)
    assert theirs.peft_config["default"].r == 2


def test_identity_at_init_and_nothing_else_trains():
    base = build("bert")
    config = AdapterConfig(method="dylora", rank=RANK, target_modules=["query"], trainable=["classifier"])
    model = inject(build("bert"), config).train()
    with torch.no_grad():
        assert torch.equal(model(**batch("bert")).logits, base(**batch("bert")).logits)
    model(**batch("bert")).loss.backward()
    for key, p in model.named_parameters():
        wanted = ".lora_" in key or key.startswith("classifier")
        assert p.requires_grad == (p.grad is not None) == wanted, key


@pytest.mark.parametrize("kind", KINDS)
def test_merge_at_the_rank_of_evaluation(kind):
    layer = make(kind)
    x, W = inputs(layer), layer.weight.clone()
    for b in (2, RANK):
        expected = set_rank(layer, b)(x)
        merge(layer)
        assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(layer.train()(x), layer.eval()(x))  # merged: no branch, nothing to draw
        for change in (set_rank, truncate):
            with pytest.raises(ValueError, match="unmerge"):
                change(layer, 1)
        unmerge(layer)
        assert_close(layer.weight, W, rtol=0, atol=2e-6)


@pytest.mark.parametrize("rank", [0, RANK + 1, -1, 2.0, True])
def test_ranks_outside_are_refused(rank):
    layer = make()
    for change in (set_rank, truncate):
        with pytest.raises(ValueError, match=f"from 1 to {RANK}, the rank of training; got {rank}"):
            change(layer, rank)
    assert layer.eval_rank == RANK
    with pytest.raises(ValueError, match="no DyLoRA layer"):
        set_rank(nn.Linear(2, 2), 1)


def test_a_layer_with_two_names_stays_one():
    model = nn.Module()
    model.a = model.b = nn.Linear(4, 3)
    truncate(inject(model, AdapterConfig(method="dylora", rank=2, target_modules=["a", "b"])), 1)
    assert model.a is model.b and type(model.a) is LoRA


def test_half_precision():
    layer = make().bfloat16()
    assert layer(inputs(layer).bfloat16()).dtype == torch.bfloat16
    assert layer.delta_weight().dtype == torch.float32
    layer.merge()
    assert layer.weight.dtype == torch.bfloat16


def test_pickle_deepcopy_checkpointing_and_compile():
    layer = set_rank(make(), 3)
    x = inputs(layer)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x)) and twin.eval_rank == 3
    layer.train()
    for seed in range(6):  # the second forward of a checkpoint must draw the first one's rank
        grads = []
        for run in (layer, lambda x: checkpoint(layer, x, use_reentrant=False)):
            torch.manual_seed(seed)
            grads.append(torch.autograd.grad(run(x).square().sum(), [layer.lora_A, layer.lora_B]))
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    compiled = torch.compile(layer.eval(), backend="aot_eager", fullgraph=True)
    assert_close(compiled(x), layer(x), rtol=0, atol=1e-6)
    compiled = torch.compile(layer.train(), backend="aot_eager")  # the draw breaks the graph in two
    for seed in range(3):
        torch.manual_seed(seed)
        expected = layer(x)
        torch.manual_seed(seed)
        assert_close(compiled(x), expected, rtol=0, atol=2e-6)
