"""LoRA+ groups and LoRA-FA's projected gradient, against PEFT's and against what their papers say they do."""

import copy
import math
import warnings

import pytest
import torch
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer, lorafa
from torch import nn
from torch.testing import assert_close

from lora_course import AdapterConfig, adapters, inject, make_optimizer
from lora_course.adapters.optimizers import EMBEDDING_LR, project
from tests.adapters.models import batch, build
from tests.adapters.test_methods_against_peft import ours, pair, peft_name

SETTINGS = [
    ("lora", "bert", ["query", "word_embeddings"]),
    ("lora", "gpt2", "all-linear"),
    ("lora", "llama", ["embed_tokens", "q_proj"]),
    ("dora", "bert", ["query", "word_embeddings"]),
    ("vera", "t5", ["q", "wo"]),
    ("ia3", "llama", ["v_proj"]),
]


@pytest.mark.parametrize(("method", "name", "targets"), SETTINGS)
def test_lora_plus_has_the_groups_of_peft(method, name, targets):
    mine, other = pair(method, name, targets)
    for model in (mine, other):
        for module in model.modules():  # trained norms and biases go into the group without decay
            if isinstance(module, nn.LayerNorm):
                module.requires_grad_(True)
    a = make_optimizer(mine, lr=1e-3, method="lora_plus", ratio=7.5, weight_decay=0.02)
    b = create_loraplus_optimizer(other, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=7.5, loraplus_weight_decay=0.02)

    def settings(optimizer, model, rename):
        names = {id(p): rename(n) for n, p in model.named_parameters()}
        return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}

    expected = settings(b, other, peft_name)
    if method == "ia3":  # (out, 1) in PEFT, which therefore counts it as a matrix
        expected = {n: (7.5e-3, 0.02) if n.endswith("ia3_l") else s for n, s in expected.items()}
    assert settings(a, mine, lambda n: n) == expected
    assert len({*expected.values()}) >= (2 if method in ("lora", "dora") else 1)


def test_lora_plus_takes_steps_of_that_ratio_and_scaled_gradients_do_not():
    model = ours("lora", "bert", ["query"])
    layer = next(iter(adapters(model).values()))

    def steps(optimizer, factor=1.0):
        nn.init.normal_(layer.lora_A), nn.init.normal_(layer.lora_B)
        before = layer.lora_A.detach().clone(), layer.lora_B.detach().clone()
        layer.lora_A.grad, layer.lora_B.grad = torch.ones_like(layer.lora_A), factor * torch.ones_like(layer.lora_B)
        optimizer.step()
        a, b = (layer.lora_A - before[0]).abs().mean(), (layer.lora_B - before[1]).abs().mean()
        return float((b / a).detach())

    assert steps(make_optimizer(model, lr=1e-2, method="lora_plus")) == pytest.approx(16, rel=1e-3)
    assert steps(make_optimizer(model, lr=1e-2, method="lora_plus", ratio=4)) == pytest.approx(4, rel=1e-3)
    assert steps(make_optimizer(model, lr=1e-2), factor=16.0) == pytest.approx(1, rel=1e-3)


def test_adapters_of_embeddings_learn_slowly():
    model = ours("lora", "bert", ["word_embeddings"])
    groups = make_optimizer(model, lr=1e-3, method="lora_plus").param_groups
    rates = {id(p): g["lr"] for g in groups for p in g["params"]}
    layer = model.bert.embeddings.word_embeddings
    assert rates[id(layer.lora_A)] == rates[id(layer.lora_B)] == EMBEDDING_LR


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
def test_lora_fa_takes_the_steps_of_peft(name, weight_decay, monkeypatch):
    monkeypatch.setattr(lorafa, "is_bf16_available", lambda: False)  # else it multiplies in bfloat16
    mine, other = pair("lora_fa", name, "all-linear")
    a = make_optimizer(mine, lr=1e-2, method="lora_fa", weight_decay=weight_decay)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        b = create_lorafa_optimizer(other, r=3, lora_alpha=7, lr=1e-2, weight_decay=weight_decay)
    for group in a.param_groups:  # PEFT decays vectors as well
        group["weight_decay"] = weight_decay
    theirs = {peft_name(n): p for n, p in other.named_parameters() if p.requires_grad}
    for step in range(4):
        for model, optimizer in ((mine, a), (other, b)):
            optimizer.zero_grad()
            model(**batch(name, seed=step)).loss.backward()
            optimizer.step()
    for key, p in mine.named_parameters():
        if p.requires_grad:
            assert_close(p, theirs[key], rtol=0, atol=1.5e-6, msg=lambda text, key=key: f"{key}: {text}")


def test_the_plain_gradient_is_that_of_lora():
    """The paper's first version, which `adamw` uses: B learns as in LoRA, A not at all."""
    plain, frozen = (
        inject(build("bert"), AdapterConfig(m, 3, 7, ["query"], trainable=["classifier"])) for m in ("lora", "lora_fa")
    )
    for a, b in zip(adapters(plain).values(), adapters(frozen).values(), strict=True):
        nn.init.normal_(a.lora_A), nn.init.normal_(a.lora_B)
        b.lora_A.copy_(a.lora_A.detach()), b.lora_B.data.copy_(a.lora_B.detach())
    for model in (plain, frozen):
        model(**batch("bert")).loss.backward()
    for a, b in zip(adapters(plain).values(), adapters(frozen).values(), strict=True):
        assert torch.equal(a.lora_B.grad, b.lora_B.grad) and b.lora_A.grad is None


def test_the_projected_gradient_is_the_nearest_to_that_of_the_weight():
    layer = next(iter(adapters(ours("lora_fa", "bert", ["query"])).values())).double()
    s, A = layer.scaling, layer.lora_A
    G = torch.randn(layer.out_features, layer.in_features, dtype=torch.float64)  # of the weight
    nearest = torch.linalg.lstsq(s * A.T, G.T).solution.T  # over dB: || s dB A - G ||
    projected = project(s * G @ A.T, layer)
    assert_close(projected, nearest, rtol=1e-6, atol=1e-7)
    left = s * projected @ A - G
    assert float((left @ A.T).abs().max()) < 1e-5 * float(G.norm())  # orthogonal to all that A can express


def test_lora_fa_goes_on_from_a_state_dict():
    model = ours("lora_fa", "bert", ["query"])
    optimizer = make_optimizer(model, lr=1e-2, method="lora_fa")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))

    def steps(model, optimizer, numbers):
        for step in numbers:
            loss = optimizer.step(lambda step=step: backward(model, step))
            assert torch.isfinite(loss)

    def backward(model, step):
        model.zero_grad()
        loss = model(**batch("bert", seed=step)).loss
        loss.backward()
        return loss

    steps(model, optimizer, [0, 1])
    schedule.step()
    twin = ours("lora_fa", "bert", ["query"])
    twin.load_state_dict(model.state_dict())
    other = make_optimizer(twin, lr=1e-2, method="lora_fa")
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch would share the averages
    steps(model, optimizer, [2, 3]), steps(twin, other, [2, 3])
    assert other.param_groups[0]["lr"] == 5e-3
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_refusals():
    model = ours("lora", "bert", ["query"])
    with pytest.raises(ValueError, match="no layer with a frozen A.*method='lora_fa'"):
        make_optimizer(model, lr=1e-3, method="lora_fa")
    for ratio in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="ratio must be positive"):
            make_optimizer(model, lr=1e-3, method="lora_plus", ratio=ratio)
    with pytest.raises(ValueError, match="unknown optimizer method 'lora+'.*'lora_plus'".replace("+", r"\+")):
        make_optimizer(model, lr=1e-3, method="lora+")
