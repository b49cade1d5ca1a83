"""resize_rank: growth that preserves the function, shrinking that is the best approximation, moments that still fit."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from lora_course import AdapterConfig, adapters, inject, make_optimizer, merge, parameter_report, unmerge
from lora_course.adapters import LoRA, RsLoRA
from lora_course.adapters.resize import best_approximation, resize_rank, singular_values
from tests.adapters.models import batch, build

IN, OUT, RANK, ALPHA = 13, 9, 5, 7
KINDS = ["linear", "conv1d", "embedding"]
EXACT = {"rtol": 0.0, "atol": 1e-12}


def make(kind="linear", rank=RANK, random=True, dtype=torch.float64, n_in=IN, n_out=OUT, seed=0, cls=LoRA):
    torch.manual_seed(seed)
    base = {
        "linear": lambda: nn.Linear(n_in, n_out),
        "conv1d": lambda: Conv1D(n_out, n_in),
        "embedding": lambda: nn.Embedding(n_in, n_out),
    }[kind]()
    method = "rslora" if cls is RsLoRA else "lora"
    layer = cls(base.to(dtype), AdapterConfig(method=method, rank=rank, alpha=ALPHA))
    if random:
        nn.init.normal_(layer.lora_A), nn.init.normal_(layer.lora_B)
    return layer


def inputs(layer, seed=1):
    g = torch.Generator().manual_seed(seed)
    if layer.kind == "embedding":
        return torch.randint(layer.in_features, (4, 6), generator=g)
    return torch.randn(4, 6, layer.in_features, generator=g, dtype=layer.weight.dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("random", [True, False])
def test_growth_preserves_the_function_and_can_learn(kind, random):
    layer = make(kind, random=random)
    x = inputs(layer)
    before, scaling, A, B = layer(x), layer.config.scaling, layer.lora_A.clone(), layer.lora_B.clone()
    resize_rank(layer, RANK + 3)
    assert_close(layer(x), before, **EXACT)
    assert layer.config.rank == RANK + 3 and layer.config.scaling == pytest.approx(scaling, rel=1e-15)
    assert layer.config.alpha == pytest.approx(ALPHA * (RANK + 3) / RANK)
    assert torch.equal(layer.lora_A[:RANK], A) and torch.equal(layer.lora_B[:, :RANK], B)
    new_A, new_B = layer.lora_A[RANK:], layer.lora_B[:, RANK:]
    zero, alive = (new_A, new_B) if kind == "embedding" else (new_B, new_A)
    assert not zero.any() and alive.all()
    if kind != "embedding":
        assert alive.abs().max() <= 1 / math.sqrt(IN)  # as a new layer's rows
    layer(x).square().sum().backward()
    gradient = layer.lora_A.grad[RANK:] if kind == "embedding" else layer.lora_B.grad[:, RANK:]
    assert gradient.any(dim=0 if kind != "embedding" else 1).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_shrinking_is_the_best_approximation(kind, rank):
    """Eckart-Young: the error is the root of the squared singular values left out, and no rank-k matrix has less."""
    layer = make(kind)
    full = layer.delta_weight().detach()
    U, S, Vh = torch.linalg.svd(full)
    assert_close(singular_values(layer), S[:RANK], **EXACT)
    last_dropped = ALPHA / RANK * layer.lora_B[:, :rank] @ layer.lora_A[:rank]
    resize_rank(layer, rank)
    delta = layer.delta_weight()
    assert layer.lora_A.shape == (rank, IN) and layer.lora_B.shape == (OUT, rank)
    assert_close(delta, U[:, :rank] * S[:rank] @ Vh[:rank], **EXACT)
    error = (delta - full).norm()
    assert_close(error, S[rank:].square().sum().sqrt(), **EXACT)
    assert error < 0.9 * (last_dropped - full).norm()  # what cutting the last ranks, as slide 16 does, would cost
    assert layer.config.scaling == pytest.approx(ALPHA / RANK, rel=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_shrinking_at_the_start_leaves_a_layer_that_can_learn(kind):
    layer = make(kind, random=False)
    x = inputs(layer)
    resize_rank(layer, 2)
    assert torch.equal(layer(x), layer.base_layer(x))
    layer(x).square().sum().backward()
    gradient = layer.lora_A.grad if kind == "embedding" else layer.lora_B.grad.T
    assert gradient.any(dim=1).all()
    alive = layer.lora_B.T if kind == "embedding" else layer.lora_A
    fresh = make(kind, random=False, seed=5)
    typical = (fresh.lora_B.T if kind == "embedding" else fresh.lora_A).norm(dim=1).mean()
    assert ((alive.norm(dim=1) / typical - 1).abs() < 0.6).all()  # rows as long as a new layer's


@pytest.mark.parametrize("rank", [2, 8])
def test_rslora_keeps_its_scale_too(rank):
    """There s = alpha / sqrt(rank), so alpha goes with the root."""
    layer = make(cls=RsLoRA)
    scaling, full = layer.scaling, layer.delta_weight().detach()
    resize_rank(layer, rank)
    assert layer.scaling == pytest.approx(scaling, rel=1e-15)
    assert layer.config.alpha == pytest.approx(ALPHA * math.sqrt(rank / RANK))
    U, S, Vh = torch.linalg.svd(full)
    kept = min(rank, RANK)
    assert_close(layer.delta_weight(), U[:, :kept] * S[:kept] @ Vh[:kept], **EXACT)
    assert_close(singular_values(layer)[:kept], S[:kept], **EXACT)


def test_rows_are_orthogonal_and_as_long_as_before():
    layer = make()
    length = layer.lora_A.norm(dim=1).square().mean()
    resize_rank(layer, 3)
    assert_close(layer.lora_A @ layer.lora_A.T, length * torch.eye(3, dtype=torch.float64), **EXACT)


shapes = st.integers(2, 20)


@settings(max_examples=50, deadline=None)
@given(kind=st.sampled_from(KINDS), n_in=shapes, n_out=shapes, rank=st.integers(1, 12), seed=st.integers(0, 999))
def test_growing_and_shrinking_back_gives_the_same_function(kind, n_in, n_out, rank, seed):
    layer = make(kind, rank, n_in=n_in, n_out=n_out, seed=seed)
    full, most = layer.delta_weight().detach(), min(n_in, n_out)
    resize_rank(layer, most)
    assert_close(layer.delta_weight(), full, rtol=0, atol=1e-10)
    resize_rank(layer, min(rank, most))
    assert_close(layer.delta_weight(), full, rtol=0, atol=1e-10)
    A, B, C, D = best_approximation(layer.lora_A.detach(), layer.lora_B.detach(), 1)
    assert_close(C @ layer.lora_A, A, rtol=0, atol=1e-9), assert_close(layer.lora_B @ D, B, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [2, 3, 8])
def test_momentum_is_that_of_the_new_factors(kind, rank):
    """B A has rank 2, so nothing is lost on the way: the averaged gradient must be what the new A and B would get."""
    layer = make(kind)
    with torch.no_grad():
        thin = torch.randn(2, RANK, dtype=torch.float64)
        if kind == "embedding":
            layer.lora_A.copy_(torch.randn(RANK, 2, dtype=torch.float64) @ torch.randn(2, IN, dtype=torch.float64))
        else:
            layer.lora_B.copy_(torch.randn(OUT, 2, dtype=torch.float64) @ thin)
    x = inputs(layer)
    optimizer = torch.optim.SGD([layer.lora_A, layer.lora_B], lr=0.0, momentum=0.9)
    layer(x).square().mean().backward()
    optimizer.step()
    resize_rank(layer, rank, optimizer)
    layer(x).square().mean().backward()
    kept = min(rank, RANK)
    for p, dim in ((layer.lora_A, 0), (layer.lora_B, 1)):
        carried = optimizer.state[p]["momentum_buffer"]
        assert carried.shape == p.shape
        assert_close(carried.narrow(dim, 0, kept), p.grad.narrow(dim, 0, kept), rtol=1e-9, atol=1e-12)
        assert p.grad.narrow(dim, 0, kept).abs().max() > 1e-3
        assert not carried.narrow(dim, kept, rank - kept).any()


def stepped(dtype=torch.float64, optimizer=torch.optim.AdamW, **settings):
    layer, head = make(dtype=dtype), nn.Linear(OUT, 3).to(dtype)
    optimizer = optimizer([*head.parameters(), layer.lora_A, layer.lora_B], lr=1e-2, **settings)
    model = nn.Sequential(layer, head)
    layer.base_layer.requires_grad_(False)
    train(model, optimizer, 5)
    return model, layer, optimizer


def train(model, optimizer, steps):
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(inputs(model[0])).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("rank", [2, 8])
def test_mean_squares_of_adam(rank):
    model, layer, optimizer = stepped(amsgrad=True)
    old = {name: copy.deepcopy(optimizer.state[getattr(layer, name)]) for name in ("lora_A", "lora_B")}
    _, _, C, D = best_approximation(layer.lora_A.detach(), layer.lora_B.detach(), min(rank, RANK))
    resize_rank(layer, rank, optimizer)
    for key in ("exp_avg_sq", "max_exp_avg_sq"):
        A, B = (optimizer.state[getattr(layer, name)][key] for name in ("lora_A", "lora_B"))
        old_A, old_B = (old[name][key] for name in ("lora_A", "lora_B"))
        if rank < RANK:
            assert_close(A, D.T.square() @ old_A, **EXACT), assert_close(B, old_B @ C.T.square(), **EXACT)
        else:
            assert torch.equal(A[:RANK], old_A) and torch.equal(B[:, :RANK], old_B)
            assert_close(A[RANK:], old_A.mean(0).expand(rank - RANK, -1), **EXACT)
            assert_close(B[:, RANK:], old_B.mean(1, keepdim=True).expand(-1, rank - RANK), **EXACT)
        assert (A >= 0).all() and (B >= 0).all()
    assert optimizer.state[layer.lora_A]["step"] == old["lora_A"]["step"]


def test_new_columns_do_not_start_with_oversized_steps():
    """With the mean square left at 0 and the step count at 5, Adam's first step would be several times lr."""
    _, layer, optimizer = stepped()
    train(nn.Sequential(layer, nn.Identity()), optimizer, 60)
    resize_rank(layer, 8, optimizer)
    before = layer.lora_B.detach().clone()
    train(nn.Sequential(layer, nn.Identity()), optimizer, 1)
    assert 0 < (layer.lora_B - before)[:, RANK:].abs().max() < 1.5e-2  # lr is 1e-2


@pytest.mark.parametrize("rank", [2, 8])
@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (torch.optim.AdamW, {"amsgrad": True}),
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.SGD, {}),
        (torch.optim.RMSprop, {"momentum": 0.9}),
        (torch.optim.Adagrad, {}),
        (torch.optim.Adadelta, {}),  # its average of squared updates is nothing we know: it starts afresh
    ],
)
def test_training_goes_on(rank, optimizer, settings):
    model, layer, optimizer = stepped(optimizer=optimizer, **settings)
    head = (
        [p.clone() for p in model[1].parameters()],
        [copy.deepcopy(optimizer.state[p]) for p in model[1].parameters()],
    )
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    resize_rank(layer, rank, optimizer)
    members = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in members} == {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for p in optimizer.state} <= {id(p) for p in members}
    for p, q, s in zip(model[1].parameters(), *head, strict=True):
        assert torch.equal(p, q) and str(optimizer.state[p]) == str(s)
    losses = train(model, optimizer, 8)
    assert losses[-1] < losses[0]
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(9e-3)
    for p in (layer.lora_A, layer.lora_B):
        for value in optimizer.state[p].values():
            assert not torch.is_tensor(value) or value.numel() == 1 or value.shape == p.shape
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    train(model, optimizer, 1)


def state_bytes(optimizer):
    return sum(t.numel() * t.element_size() for s in optimizer.state.values() for t in s.values() if t.numel() > 1)


def test_a_whole_model_and_the_bytes_it_gives_back():
    model = inject(
        build("bert"), AdapterConfig(rank=8, alpha=16, target_modules=["query", "dense"], trainable=["classifier"])
    )
    optimizer = make_optimizer(model, lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(**batch("bert")).loss.backward()
        optimizer.step()
    wide = sum(a.in_features + a.out_features for a in adapters(model).values())
    report, state = parameter_report(model), state_bytes(optimizer)
    before = [a.delta_weight().detach() for a in adapters(model).values()]
    resize_rank(model, 3, optimizer)
    after = parameter_report(model)
    assert report.trainable - after.trainable == 5 * wide and report.bytes - after.bytes == 4 * 5 * wide
    assert state - state_bytes(optimizer) == 2 * 4 * 5 * wide
    for layer in adapters(model).values():
        for t in (layer.lora_A, layer.lora_B):
            assert t.untyped_storage().nbytes() == 4 * t.numel()  # not a view of the old one
    for delta, layer in zip(before, adapters(model).values(), strict=True):
        assert_close(layer.delta_weight(), delta, rtol=0, atol=float(torch.linalg.svdvals(delta)[3]) + 1e-6)
    optimizer.zero_grad()
    model(**batch("bert")).loss.backward()
    optimizer.step()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_merge_compile_checkpoint_and_copies_after_resizing():
    layer = resize_rank(make(dtype=torch.float32), 3)
    x = inputs(layer)
    expected = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), expected) and twin.config == layer.config
    assert_close(checkpoint(layer, x, use_reentrant=False), expected, rtol=0, atol=0)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert_close(compiled(x), expected, rtol=0, atol=1e-5)
    resize_rank(layer, 6)
    assert_close(compiled(x), expected, rtol=0, atol=1e-5)  # it notices, and compiles anew
    assert_close(unmerge(merge(layer))(x), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(dtype):
    layer = make(dtype=dtype)
    full = layer.delta_weight().detach()
    resize_rank(layer, 2)
    assert layer.lora_A.dtype == layer.lora_B.dtype == dtype
    U, S, Vh = torch.linalg.svd(full)
    bound = {torch.float32: 1e-5, torch.bfloat16: 2**-6 * float(S[0])}[dtype]  # A' and B' are rounded
    assert_close(layer.delta_weight(), U[:, :2] * S[:2] @ Vh[:2], rtol=0, atol=bound)
    half = resize_rank(make(dtype=torch.bfloat16), 7)
    assert half.lora_A.dtype == torch.bfloat16


def test_frozen_factors_stay_frozen():
    layer = make()
    layer.lora_A.requires_grad_(False)
    resize_rank(layer, 3)
    assert not layer.lora_A.requires_grad and layer.lora_B.requires_grad
    assert not layer.weight.requires_grad


@pytest.mark.parametrize("rank", [0, -1, 10, 2.0, True])
def test_ranks_that_do_not_fit(rank):
    layer = make()
    before = layer.lora_A
    with pytest.raises(ValueError, match=rf"13 in, 9 out\) can have a rank from 1 to 9, got {rank}"):
        resize_rank(layer, rank)
    assert layer.lora_A is before and layer.config.rank == RANK


def test_refusals_come_before_any_change():
    model = inject(nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 4)), AdapterConfig(rank=3, target_modules="all-linear"))
    with pytest.raises(ValueError, match=r"1 \(9 in, 4 out\) can have a rank from 1 to 4, got 5"):
        resize_rank(model, 5)
    with pytest.raises(ValueError, match=r"optimizer does not train 0 \(9 in"):
        resize_rank(model, 2, torch.optim.SGD(model[1].parameters(), lr=0.1))
    model[1].merge()
    with pytest.raises(ValueError, match=r"1 \(9 in, 4 out\) is merged"):
        resize_rank(model, 2)
    assert [a.config.rank for a in adapters(model).values()] == [3, 3]
    with pytest.raises(ValueError, match="no LoRA layer"):
        resize_rank(nn.Linear(3, 3), 2)
    delta = inject(nn.Sequential(nn.Linear(9, 9)), AdapterConfig(method="dylora", target_modules=["0"]))
    with pytest.raises(ValueError, match="of method 'dylora'; only lora and rslora"):
        resize_rank(delta, 2)
