"""The hand-written steps against the plain forward and against PEFT; what they keep; when they stand back."""

import contextlib
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from lora_course import AdapterConfig, inject
from lora_course.adapters import fused
from lora_course.adapters.dropout import SharedDropout, drop
from lora_course.adapters.inject import METHODS
from lora_course.memory.live import LiveBytes
from lora_course.quantization.base import FORMATS
from tests.adapters.models import batch
from tests.adapters.test_methods_against_peft import WITH_DROPOUT, assert_train_alike, pair

STEPS = {
    "lora": fused.LoRAStep,
    "rslora": fused.LoRAStep,
    "lora_fa": fused.LoRAStep,
    "pissa": fused.LoRAStep,
    "olora": fused.LoRAStep,
    "dora": fused.DoRAStep,
    "vera": fused.VeRAStep,
}
D, K, N, R, ALPHA = 12, 20, 30, 3, 5


def layer_of(method, kind="linear", dropout=0.0, dtype=torch.float64, bias=True):
    torch.manual_seed(0)
    base = (Conv1D(K, D) if "conv1d" in kind else nn.Linear(D, K, bias=bias)).to(dtype)
    if kind.startswith(("nf4", "int8")):
        base = FORMATS[kind.split()[0]](base)
    layer = METHODS[method](base, AdapterConfig(method, R, ALPHA, dropout=dropout))
    with torch.no_grad():
        for p in layer.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn_like(p))
    return layer.train()


def x_of(dtype=torch.float64):
    return torch.randn(2, N // 2, D, dtype=dtype, generator=torch.Generator().manual_seed(1), requires_grad=True)


def outcome(layer, x, seed=2):
    torch.manual_seed(seed)
    h = layer(x)
    weights = torch.linspace(-1, 2, h.numel(), dtype=h.dtype).view_as(h)
    wanted = [p for p in (x, *layer.parameters()) if p.requires_grad]
    return h.detach(), *torch.autograd.grad((h * weights).sum(), wanted)


@pytest.fixture
def taken(monkeypatch):
    """The names of the steps that were taken."""
    names = []
    for step in {*STEPS.values()}:
        apply = step.apply
        monkeypatch.setattr(
            step, "apply", lambda *a, step=step, apply=apply: (names.append(step.__name__), apply(*a))[1]
        )
    return names


class OneMask(SharedDropout):
    """Drops the same entries of x whichever forward asks."""

    def __init__(self, x, p):
        super().__init__(p)
        self.mask = (torch.rand(x.shape) > p) / (1 - p)

    def forward(self, x):
        return x * self.mask


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize(
    ("method", "kind"),
    [
        *((method, kind) for method in STEPS for kind in ("linear", "no bias", "conv1d")),
        *((method, kind) for method in ("lora", "lora_fa", "dora", "vera") for kind in ("nf4", "nf4 conv1d", "int8")),
    ],
)
def test_the_same_as_the_plain_forward(method, kind, dropout, taken):
    layer, x = layer_of(method, kind.replace("no bias", "linear"), dropout, bias=kind != "no bias"), x_of()
    if dropout:
        layer.dropout = OneMask(x, dropout)
    quick = outcome(layer, x)
    assert taken == [STEPS[method].__name__]
    with fused.plain_forward():
        plain = outcome(layer, x)
    assert len(taken) == 1
    for ours, theirs in zip(quick, plain, strict=True):
        assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["lora", "lora_fa", "vera"])
def test_gradients_by_finite_differences(method):
    """DoRA is left out: its norm is a constant by decision, which finite differences cannot know."""
    layer, x = layer_of(method), x_of()
    wanted = [p for p in layer.parameters() if p.requires_grad]
    assert torch.autograd.gradcheck(lambda *_: layer(x), (x, *wanted))


def test_first_layer_without_input_gradient():
    for method in STEPS:
        layer, x = layer_of(method), x_of()
        with_x = outcome(layer, x)
        without = outcome(layer, x.detach())
        assert all(torch.equal(a, b) for a, b in zip(without, (with_x[0], *with_x[2:]), strict=True)), method


def share(model):
    """PEFT's model with dropout masks shared as ours are."""
    for module in list(model.modules()):
        for name in ("lora_dropout", "vera_dropout"):
            dropouts = getattr(module, name, None)
            if isinstance(dropouts, nn.ModuleDict):
                for key, dropout in dropouts.items():
                    if isinstance(dropout, nn.Dropout):
                        dropouts[key] = SharedDropout(dropout.p)
    return model


@pytest.mark.parametrize(("method", "name", "targets", "dropout"), [case for case in WITH_DROPOUT if case[0] in STEPS])
def test_three_steps_of_peft(method, name, targets, dropout, taken):
    """In float64: other roundings end up within 1e-6 (T5's gradients of 10 and more), another path would not."""
    mine, other = (model.double() for model in pair(method, name, targets, dropout))
    assert_train_alike(mine, share(other), batch(name), 1e-6)
    assert {*taken} <= {STEPS[method].__name__}


def saved_bytes(layers, x):
    """Distinct storages that autograd keeps, parameters and buffers left out."""
    own = {t.untyped_storage().data_ptr() for layer in layers for t in (*layer.parameters(), *layer.buffers())}
    kept = {}

    def pack(t):
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        alive = [layer(x) for layer in layers]
        total = sum(kept.values())
    return total, alive


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["linear", "nf4", "int8"])
@pytest.mark.parametrize("method", ["lora", "lora_fa", "dora", "vera"])
def test_what_is_kept(method, kind, dropout, layers):
    """In numbers of 4 bytes but for the dropout mask, which has one byte an entry; x and mask once for all layers."""
    group = [layer_of(method, kind, dropout, dtype=torch.float32) for _ in range(layers)]
    kept, _ = saved_bytes(group, x_of(torch.float32))
    each = {"lora": N * R, "lora_fa": N * R, "dora": N * R + N * K, "vera": N * R}[method]
    stretch = K if method == "dora" else 0  # ||V||
    shared = N * D if method in ("lora", "dora") else 0
    mask = N * D if dropout else 0
    assert kept == 4 * (layers * (each + stretch) + shared) + mask


def forward_peak(layer, x):
    """Bytes at the worst moment of the forward pass, beyond what was there before."""
    with LiveBytes([x, *layer.parameters(), *layer.buffers()]) as live:
        before = live.peak_so_far()
        layer(x)
        return live.peak_so_far() - before


@pytest.mark.parametrize("format", [None, "nf4", "int8"])
@pytest.mark.parametrize(("method", "outputs"), [("lora", 1), ("lora_fa", 1), ("vera", 1), ("dora", 2)])
def test_no_temporary_as_large_as_the_output(method, outputs, format):
    """Beside the output (which DoRA keeps unstretched, too): numbers in r columns, and an unpacked weight."""
    tokens, d, k, r = 2000, 64, 128, 4
    base = nn.Linear(d, k)
    layer = METHODS[method](FORMATS[format](base) if format else base, AdapterConfig(method, r)).train()
    x, output = torch.randn(tokens, d), 4 * tokens * k
    peak = forward_peak(layer, x)
    unpacked = 3 * 4 * d * k if format or method == "dora" else 0
    assert outputs * output <= peak <= outputs * output + 4 * (3 * tokens * r + 2 * k * r) + unpacked + 4096
    with fused.plain_forward():
        assert forward_peak(layer, x) > peak + output / 2


@pytest.mark.parametrize("method", STEPS)
def test_evaluation_is_plain(method, taken):
    layer, x = layer_of(method, dtype=torch.float32).eval(), x_of(torch.float32)
    h = layer(x)
    with torch.no_grad():
        layer.train()(x)
    with fused.plain_forward():
        assert torch.equal(h, layer(x))
    assert taken == []


def test_stands_back(taken):
    x = x_of(torch.float32)
    for change in (
        lambda layer: layer.base_layer.register_forward_hook(lambda *_: None),
        lambda layer: layer.base_layer.register_full_backward_hook(lambda *_: None),
        lambda layer: layer.base_layer.weight.requires_grad_(True),
        lambda layer: layer.base_layer.bias.requires_grad_(True),
        lambda layer: layer.merge(),
        lambda layer: setattr(layer, "base_layer", nn.Sequential(layer.base_layer)),
    ):
        layer = layer_of("lora", dtype=torch.float32)
        change(layer)
        with contextlib.suppress(AttributeError):  # a Sequential has no weight; what matters is that nothing was fused
            layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer_of("lora", dtype=torch.float32)(x)
    mixed = layer_of("lora", dtype=torch.float32)
    mixed.base_layer.to(torch.bfloat16)
    mixed(x.bfloat16())
    assert taken == []
    layer_of("lora", dtype=torch.float32)(x)
    assert taken == ["LoRAStep"]


def test_per_example_gradients_by_torch_func():
    layer, x = layer_of("lora"), x_of().detach()[0]
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(values, row):
        return torch.func.functional_call(layer, values, (row.unsqueeze(0),)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    layer(x).square().sum().backward()
    assert_close(each["lora_A"].sum(0), layer.lora_A.grad, rtol=1e-10, atol=1e-10)


def test_a_second_derivative_is_refused_not_wrong():
    layer, x = layer_of("lora"), x_of()
    (g,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


# ------------------------------------------------------------------ dropout


def test_drops_what_torch_drops_in_the_plain_forward():
    x = x_of(torch.float32)
    with fused.plain_forward():
        torch.manual_seed(5)
        ours = SharedDropout(0.3)(x)
    torch.manual_seed(5)
    assert torch.equal(ours, nn.Dropout(0.3)(x))


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.93])
def test_drops_a_share_of_p_and_keeps_the_mean(p):
    torch.manual_seed(0)
    x = torch.ones(301, 333, requires_grad=True)
    y = drop(x, p)
    n, kept = x.numel(), y != 0
    assert abs(kept.float().mean().item() - (1 - p)) < 5 * (p * (1 - p) / n) ** 0.5  # five standard errors
    assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - p)), rtol=2**-16 / (1 - p), atol=0)
    neighbours = [(kept[:, 1:] & kept[:, :-1]), (kept[1:] & kept[:-1]), (kept[:, 4:] & kept[:, :-4])]
    for both in neighbours:  # independent of each other, also across the four that come from one draw
        assert abs(both.float().mean().item() - (1 - p) ** 2) < 5 * ((1 - p) ** 2 / n) ** 0.5
    (g,) = torch.autograd.grad((y * y.detach()).sum(), x)
    assert_close(g, y.detach().square())


@pytest.mark.parametrize("p", [1e-6, 1.0])
def test_drops_what_16_bits_cannot_say(p):
    y = drop(torch.ones(100), p)
    assert_close(y, torch.zeros(100) if p == 1 else torch.ones(100), rtol=2e-6, atol=0)


def test_one_mask_for_those_who_read_the_same_x():
    first, second, other_p = SharedDropout(0.3), SharedDropout(0.3), SharedDropout(0.4)
    x = x_of()
    a = first(x)
    assert second(x) is a
    assert other_p(x) is not a and not torch.equal(first(x.clone()), a)
    a = first(x)
    torch.rand(1)  # somebody else has drawn: it is later, and a new mask
    assert not torch.equal(second(x), a)
    a = first(x)
    with torch.no_grad():
        x += 1  # the same object with other values
    assert second(x) is not a
    a = first(x)
    with torch.no_grad():
        assert second(x) is not a  # that one has a graph
    with fused.plain_forward():
        assert second(x) is not first(x)


@pytest.mark.parametrize("wants_gradient", [True, False])
def test_the_next_step_on_the_same_x_draws_a_new_mask(wants_gradient):
    """Nothing else draws between the steps; the first step has used up its graph."""
    layers, x = [SharedDropout(0.3), SharedDropout(0.3)], x_of().detach().requires_grad_(wants_gradient)
    masks = []
    for _ in range(3):
        a, b = (layer(x) for layer in layers)
        assert b is a
        masks.append(a.detach().clone())
        if wants_gradient:
            (a + b).sum().backward()
    assert not torch.equal(masks[0], masks[1]) and not torch.equal(masks[1], masks[2])
    used_up = layers[0](x)
    if wants_gradient:
        used_up.sum().backward()
        layers[1](x).sum().backward()  # its first call on this draw, whose graph is gone


def test_nothing_outlives_x():
    x = x_of().detach() * 2
    kept = weakref.ref(SharedDropout(0.3)(x))
    assert kept() is not None
    del x
    gc.collect()
    assert kept() is None


def test_checkpointing_draws_again_and_alike():
    """The layers read the checkpointed block's own input, which is the same object in both passes."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.v = layer_of("lora", dropout=0.25), layer_of("lora", dropout=0.25)

        def forward(self, x):
            return self.q(x) * self.v(x)

    block, x = Block(), x_of()
    expected = outcome(block, x)
    again = outcome(lambda_module(block), x)
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


def lambda_module(block):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = block

        def forward(self, x):
            return checkpoint(self.block, x, use_reentrant=False)

    return Checkpointed()


def test_trains_whole_models_with_shared_masks():
    model = inject(nn.Sequential(nn.Linear(D, D), nn.Linear(D, K)), AdapterConfig(rank=R, alpha=ALPHA, dropout=0.5))
    torch.manual_seed(0)
    model(x_of(torch.float32)).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
