"""Measured bytes against formulas, against numbers taken once with other code, and against torch's own profiler."""

import copy

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint
from transformers import GPT2Config, GPT2LMHeadModel

from lora_course import AdapterConfig, inject, make_optimizer
from lora_course.adapters import METHODS
from lora_course.memory import measure
from lora_course.memory.measure import default_optimizer, model_loss
from tests.adapters.models import BUILDERS, HEADS, batch, build

N, D, RANK, KIB = 256, 512, 8, 1024


class SharingX(nn.Module):
    """Layers that all take the same x, as query, key and value do."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        return sum(layer(x).sum() for layer in self.layers)


def apply(model, x):
    return model(x)


def saved_by_layers(count, method, dropout=0.0, base=torch.float32, adapter=None):
    """Bytes that `count` layers sharing x save; x comes from an earlier layer, so it wants a gradient."""

    def layer():
        linear = nn.Linear(D, D).to(base)
        if method in ("full", "frozen"):
            return linear.requires_grad_(method == "full")
        wrapped = METHODS[method](linear, AdapterConfig(method, RANK, 16, dropout=dropout))
        for p in wrapped.parameters(recurse=False):
            p.data = p.data.to(adapter or base)
        return wrapped

    x = torch.randn(N, D, dtype=base, requires_grad=True)
    return measure(SharingX([layer() for _ in range(count)]), x, apply).saved


BF16 = torch.bfloat16
LAYERS = {  # KiB of one layer, and of three; taken with other code, on the same shapes, before this package was written
    ("full",): (512, 512),
    ("frozen",): (0, 0),
    ("lora",): (520, 536),
    ("lora", 0.1): (1032, 3096),
    ("lora_fa",): (8, 24),
    ("lora_fa", 0.1): (520, 1560),
    ("lora", 0.0, BF16, torch.float32): (520, 1560),
    ("lora", 0.0, BF16): (260, 268),
}


QUICK = {  # of the hand-written steps: x or nothing, r numbers a token, and a mask of one byte an entry
    ("lora",): (520, 536),
    ("lora", 0.1): (512 + 128 + 8, 512 + 128 + 24),
    ("lora_fa",): (8, 24),
    ("lora_fa", 0.1): (128 + 8, 128 + 24),
    ("vera",): (8, 24),
    ("vera", 0.1): (128 + 8, 128 + 24),
}


@pytest.mark.parametrize("case", QUICK, ids=str)
def test_bytes_of_a_layer(case):
    assert (saved_by_layers(1, *case) / KIB, saved_by_layers(3, *case) / KIB) == QUICK[case]


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_bytes_of_the_plain_forward(case):
    assert (saved_by_layers(1, *case) / KIB, saved_by_layers(3, *case) / KIB) == LAYERS[case]


MODELS = {"full": (186, 186), "lora": (154, 184), "lora_fa": (148, 148)}  # MiB: attention only, all linear layers


@pytest.mark.parametrize("method", MODELS)
def test_bytes_of_a_model(method):
    """GPT-2-like: 6 layers, d 512, 4 x 128 tokens."""
    found = []
    for targets in (["attn.c_attn", "attn.c_proj"], "all-linear"):
        off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0) | {"bos_token_id": 0, "eos_token_id": 0}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=2000, n_embd=D, n_layer=6, n_head=8, n_positions=128, **off))
        if method != "full":
            inject(model, AdapterConfig(method, RANK, 16, targets))
        ids = torch.randint(0, 2000, (4, 128))
        memory = measure(model, {"input_ids": ids, "labels": ids})
        found.append(round(memory.saved / 2**20))
        trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
        tensors = sum(1 for p in model.parameters() if p.requires_grad)
        assert memory.gradients == trained
        assert memory.optimizer_state == 2 * trained + 4 * tensors  # two moments, and a step count each
        assert memory.parameters == sum(p.nbytes for p in model.parameters())  # the tied embedding once
        assert memory.buffers == sum(b.nbytes for b in model.buffers())
    assert tuple(found) == MODELS[method]


def test_every_byte_of_a_small_network():
    """By hand: y = W2 relu(W1 x), loss = sum of y squared, SGD with momentum."""
    d, h, k, n = 30, 20, 10, 6
    model = nn.Sequential(nn.Linear(d, h, bias=False), nn.ReLU(), nn.Linear(h, k, bias=False))
    x = torch.randn(n, d)

    def loss(model, x):
        return model(x).square().sum()

    memory = measure(model, x, loss, lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9))
    weights = 4 * (d * h + h * k)
    assert memory.parameters == memory.gradients == memory.optimizer_state == weights and memory.buffers == 0
    # W1 keeps x; the ReLU its output, which W2 keeps too; the square keeps y
    assert memory.saved_by_module == {"0": 4 * n * d, "1": 4 * n * h, "(outside the model)": 4 * n * k}
    assert memory.saved == 4 * n * (d + h + k)
    assert memory.saved_by_kind() == {"0": 4 * n * d, "1": 4 * n * h, "(outside the model)": 4 * n * k}
    # all the time: weights, momentum, x
    there = 2 * weights + x.nbytes
    assert memory.phase_peaks == {
        "forward": there + 4 * n * (h + k + k) + 4,  # relu, y, its square, their sum
        "backward": there + weights + 4 * n * h + 8,  # all gradients, that of the relu's output, the loss and its own
        "optimizer step": there + weights,
    }
    assert memory.peak == memory.phase_peaks["backward"]
    assert memory.allocator_peak is None and memory.device == "cpu"


def profiled_peak(model, inputs):
    """The peak of a second step over what is there before it, from every allocation that torch's profiler reports."""
    optimizer = default_optimizer(model)

    def step():
        model_loss(model, inputs).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        step()
    now = peak = 0
    for event in run.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


@pytest.mark.parametrize("name", BUILDERS)
def test_peak_is_that_of_torchs_profiler(name):
    """The profiler also sees what an operation needs inside itself and scalars that Python wraps: a few hundred bytes
    of some 100 000 here.
    """
    model = inject(build(name), AdapterConfig("lora", 3, 7, trainable=HEADS[name])).train()
    inputs = batch(name)
    measured = measure(model, inputs)
    there = measured.parameters + measured.buffers + measured.optimizer_state + sum(t.nbytes for t in inputs.values())
    assert measured.peak - there == pytest.approx(profiled_peak(model, inputs), rel=0.005)


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was(method):
    model = inject(build("bert"), AdapterConfig(method, 3, 7, trainable=["classifier"])).train()
    before = copy.deepcopy(model.state_dict())
    state, hooks = torch.get_rng_state(), [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    first, second = measure(model, batch("bert")), measure(model, batch("bert"))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and model.training
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks


def test_checkpointing_keeps_the_inputs_of_a_block():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(), nn.Linear(4 * D, D))
    x = torch.randn(N, D, requires_grad=True)

    def recomputed(block, x):
        return checkpoint(block, x, use_reentrant=False).sum()

    plain, thrifty = (measure(block, x, loss) for loss in (lambda block, x: block(x).sum(), recomputed))
    assert plain.saved == 4 * N * (D + 4 * D + 4 * D)  # what goes into each of the three
    assert thrifty.saved == pytest.approx(4 * N * D, abs=100)  # x; and a few words of bookkeeping
    assert thrifty.gradients == plain.gradients


def test_what_the_graph_lets_go_is_not_saved():
    class Extra(nn.Linear):
        def forward(self, x):
            super().forward(x * 2).exp()  # nobody uses it: its graph dies here
            return super().forward(x)

    layer, x = Extra(D, D), torch.randn(N, D)
    assert measure(layer, x, lambda layer, x: layer(x).sum()).saved == x.nbytes


def test_every_saved_byte_has_a_module():
    model = inject(build("gpt2"), AdapterConfig("lora", 3, 7, ["c_attn"]))
    memory = measure(model, batch("gpt2"))
    names = dict(model.named_modules())
    assert set(memory.saved_by_module) <= {*names, "(the model itself)", "(outside the model)"}
    assert len(memory.saved_by_kind()) < len(memory.saved_by_module)  # two layers in one row
    assert sum(memory.saved_by_kind().values()) == memory.saved == sum(memory.saved_by_module.values())
    rows = [*memory.saved_by_kind().values()]
    assert rows == sorted(rows, reverse=True) and "transformer.h.*.attn.c_attn" in memory.saved_by_kind()


def test_a_frozen_model_has_nothing_to_step():
    memory = measure(build("bert").requires_grad_(False), batch("bert"))
    assert (memory.saved, memory.gradients, memory.optimizer_state) == (0, 0, 0)
    assert memory.peak > memory.parameters


def test_optimizers_differ_by_their_state():
    model = inject(build("bert"), AdapterConfig("lora", 3, 7, ["query"], trainable=["classifier"]))
    sizes = [
        measure(model, batch("bert"), optimizer=o).optimizer_state
        for o in (lambda m: torch.optim.SGD(m.parameters(), lr=1.0), lambda m: make_optimizer(m, 1e-3, "lora_plus"))
    ]
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sizes == [0, 2 * sum(p.nbytes for p in trained) + 4 * len(trained)]


def test_shown_as_a_table():
    memory = measure(build("bert"), batch("bert"))
    lines = repr(memory).splitlines()
    assert str(memory) == repr(memory) and len(lines) == 7
    assert lines[0].split() == ["a", "training", "step,", "cpu", "bytes"]
    for line, (name, size) in zip(lines[1:], memory.rows(), strict=True):
        assert line.startswith(name) and line.endswith(f"{size:,}")
    html = memory._repr_html_()
    assert html.count("<tr>") == 7 and f"<td>{memory.saved:,}</td>" in html


@pytest.mark.parametrize("answer", [torch.ones(2), 3.0, None])
def test_a_loss_that_is_not_one_number(answer):
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    with pytest.raises(ValueError, match="must be one number, got (a tensor of shape \\(2,\\)|float|NoneType)"):
        measure(model, torch.ones(1, 2), lambda model, x: answer)
    assert torch.equal(model.weight, before) and model.weight.grad is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_peak_against_cudas_allocator():
    """The allocator rounds every tensor up to 512 bytes and holds workspaces of matrix products."""
    model = inject(build("gpt2").cuda(), AdapterConfig("lora", 3, 7))
    inputs = {key: tensor.cuda() for key, tensor in batch("gpt2").items()}
    measure(model, inputs)  # workspaces are allocated once
    torch.cuda.empty_cache()
    memory = measure(model, inputs)
    assert memory.peak <= memory.allocator_peak
