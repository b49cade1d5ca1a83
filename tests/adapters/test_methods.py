"""Each layer alone, against its equation written out; properties over random shapes; what is refused; what composes."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.tuners.lokr.layer import factorization
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
    unmerge,
)
from lora_course.adapters import METHODS, LoRA, VeRA
from lora_course.adapters.base import weight_view
from lora_course.adapters.lokr import split
from lora_course.adapters.oracles import ORACLES
from lora_course.memory import measure
from lora_course.training.checkpoint import trainable_tensors
from tests.adapters.models import HEADS, batch, build

IN, OUT, RANK, ALPHA = 12, 10, 3, 5
KINDS = ("linear", "conv1d", "embedding")
STATIC = [m for m in METHODS if m not in ("adalora", "dylora", "delta_lora", "loftq")]  # those have their own tests
CHANGES_THE_BASE = ("pissa", "olora")
PLACES = [(method, kind) for method in STATIC for kind in METHODS[method].kinds]


def base_layer(kind, in_features=IN, out_features=OUT):
    layer = {
        "linear": lambda: nn.Linear(in_features, out_features),
        "conv1d": lambda: Conv1D(out_features, in_features),
        "embedding": lambda: nn.Embedding(in_features, out_features),
    }[kind]()
    nn.init.normal_(layer.weight, std=0.5)  # Conv1D's own start is small
    return layer


def make(method, kind="linear", in_features=IN, out_features=OUT, rank=RANK, alpha=ALPHA, seed=0, random=True, **more):
    torch.manual_seed(seed)
    base = base_layer(kind, in_features, out_features)
    layer = METHODS[method](base, AdapterConfig(method, rank, alpha, **more))
    if random:
        randomise(layer)
    return layer


def randomise(module):
    for p in module.parameters():
        if p.requires_grad:
            nn.init.normal_(p, std=0.5)


def inputs_of(kind, in_features, dtype=torch.float32, seed=1):
    g = torch.Generator().manual_seed(seed)
    if kind == "embedding":
        return torch.randint(in_features, (4, 6), generator=g)
    return torch.randn(4, 6, in_features, generator=g, dtype=dtype)


def inputs(layer, seed=1):
    return inputs_of(layer.kind, layer.in_features, layer.weight.dtype, seed)


def dense(layer, x):
    """The output by the method's equation, with the whole weight made."""
    W, b = weight_view(layer.base_layer), layer.bias
    c, p = layer.config, dict(layer.named_parameters())
    method, s = c.method, c.alpha / (math.sqrt(c.rank) if c.method == "rslora" else c.rank)
    if method in ("lora", "rslora", "lora_fa"):
        W = W + s * layer.lora_B @ layer.lora_A
    elif method == "vera":
        pair = layer.pair
        rows = p["vera_lambda_b"][:, None] * pair.B[: layer.out_features]
        W = W + rows @ torch.diag(p["vera_lambda_d"]) @ pair.A[:, : layer.in_features]
    elif method == "dora":
        V = W + s * layer.lora_B @ layer.lora_A
        W = p["lora_magnitude_vector"][:, None] * V / V.norm(dim=1, keepdim=True).detach()
    elif method in CHANGES_THE_BASE:
        original = W + s * layer.initial_B @ layer.initial_A
        W = original + s * (layer.lora_B @ layer.lora_A - layer.initial_B @ layer.initial_A)
    elif method == "ia3":
        W, b = p["ia3_l"][:, None] * W, None if b is None else p["ia3_l"] * b
    elif method == "loha":
        W = W + s * (p["hada_w1_a"] @ p["hada_w1_b"]) * (p["hada_w2_a"] @ p["hada_w2_b"])
    elif method == "lokr":
        C = p["lokr_w1"]
        D = p["lokr_w2"] if "lokr_w2" in p else p["lokr_w2_a"] @ p["lokr_w2_b"]
        W = W + s * torch.cat([torch.cat([c * D for c in row], dim=1) for row in C])  # blocks
    f = F.embedding(x, W.T) if layer.kind == "embedding" else F.linear(x, W, b)
    if method == "houlsby":
        hidden = F.gelu(f @ p["down_weight"].T + p["down_bias"])
        f = f + hidden @ p["up_weight"].T + p["up_bias"]
    return f


@pytest.mark.parametrize(("method", "kind"), PLACES)
@pytest.mark.parametrize("rank", [1, RANK, 6])
def test_equals_its_equation_and_so_do_its_gradients(method, kind, rank):
    layer = make(method, kind, rank=rank).double()
    x = inputs(layer)
    x = x if kind == "embedding" else x.requires_grad_()
    out, expected = layer(x), dense(layer, x)
    assert_close(out, expected, rtol=0, atol=1e-12)
    wanted = [p for p in layer.parameters() if p.requires_grad] + ([] if kind == "embedding" else [x])
    g = torch.randn_like(out)
    bar = ORACLES["houlsby"].bar  # the one method that has no other oracle
    assert_close(torch.autograd.grad(out, wanted, g), torch.autograd.grad(expected, wanted, g), rtol=0, atol=bar)
    if method != "houlsby":
        merged = copy.deepcopy(layer)
        merged.merge()
        assert_close(merged(x), expected, rtol=0, atol=1e-11)
        if method != "ia3":  # whose bias changes too
            W = weight_view(layer.base_layer) + layer.delta_weight()
            assert_close(weight_view(merged.base_layer), W, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("method", [m for m in STATIC if METHODS[m].has_dropout])
def test_dropout_is_on_the_branch_only(method):
    layer = make(method, dropout=0.5).double().train()
    x = inputs(layer)
    torch.manual_seed(3)
    out = layer(x)
    torch.manual_seed(3)
    dropped = F.dropout(x, 0.5)
    plain = layer.base_layer(x)
    change = dense(layer, dropped) - layer.base_layer(dropped)  # linear in x for all that have dropout
    assert_close(out, plain + change, rtol=0, atol=1e-12)
    assert torch.equal(layer.eval()(x), layer(x)) and not torch.equal(layer(x), out)


sizes = st.integers(1, 24)


@settings(max_examples=150, deadline=None)
@given(
    place=st.sampled_from(PLACES),
    n_in=sizes,
    n_out=sizes,
    rank=st.integers(1, 8),
    alpha=st.floats(0.1, 64),
    seed=st.integers(0, 2**16),
)
def test_properties(place, n_in, n_out, rank, alpha, seed):
    method, kind = place
    cls = METHODS[method]
    torch.manual_seed(seed)
    base = base_layer(kind, n_in, n_out)
    W, b = base.weight.detach().clone(), None if kind == "embedding" else base.bias.detach().clone()
    config = AdapterConfig(method, rank, alpha)
    if method in CHANGES_THE_BASE and rank > min(n_in, n_out):
        with pytest.raises(ValueError, match="can be at most"):
            cls(base, config)
        assert base.weight.requires_grad and torch.equal(base.weight, W)
        return
    x = inputs_of(kind, n_in, seed=seed)
    expected = base(x).detach()
    layer = cls(base, config)

    scale = float(W.abs().max())
    start = layer.eval()(x).detach()
    if method in CHANGES_THE_BASE:
        assert_close(start, expected, rtol=1e-5, atol=3e-6 * max(1, layer.scaling) * scale * n_in)
    elif method == "houlsby":  # |U gelu(D f)| with |D|, |U| at most .02
        assert float((start - expected).abs().max()) <= 0.02**2 * rank * n_out * float(expected.abs().max()) + 1e-6
    else:
        assert torch.equal(start, expected)
        assert_close(layer.train()(x).detach(), expected, rtol=1e-6, atol=1e-6 * scale * n_in)

    trainable = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    assert trainable == cls.count_trainable(n_in, n_out, rank)
    randomise(layer)
    layer(x).square().sum().backward()
    for name, p in layer.named_parameters():
        assert (p.grad is not None) == (not name.startswith("base_layer.")), name
    if method == "houlsby":
        return

    layer = layer.double()
    x = x if kind == "embedding" else x.double()
    found = torch.linalg.matrix_rank(layer.delta_weight())
    bounds = {"loha": rank**2, "dora": min(n_in, n_out), "ia3": min(n_in, n_out)}
    if method == "lokr":
        (p, k), (m, n) = split(n_out), split(n_in)
        bounds["lokr"] = min(p, m) * min(k, n, rank if rank < max(k, n) / 2 else k)
    assert found <= bounds.get(method, rank)

    before, out = layer.weight.clone(), layer(x).detach()
    layer.merge()
    layer.merge()
    assert_close(layer(x), out, rtol=1e-9, atol=1e-9 * max(1.0, float(out.abs().max())))
    layer.unmerge()
    layer.unmerge()
    assert_close(
        layer.weight, before, rtol=1e-8, atol=1e-9 * max(1.0, float(layer.delta_weight().detach().abs().max()))
    )
    assert_close(layer(x), out, rtol=1e-8, atol=1e-8 * max(1.0, float(out.abs().max())))
    layer.release()
    assert_close(layer.base_layer.weight, W.double(), rtol=0, atol=1e-6 * max(1, layer.scaling) * scale)
    assert b is None or torch.equal(layer.bias.float(), b) or method == "ia3"


@settings(max_examples=40, deadline=None)
@given(n_in=sizes, n_out=sizes, rank=st.integers(1, 8), alpha=st.floats(0.1, 64), seed=st.integers(0, 2**16))
def test_dora_norm_by_the_gram_matrix(n_in, n_out, rank, alpha, seed):
    layer = make("dora", "linear", n_in, n_out, rank, alpha, seed).double()
    V = layer.weight + layer.scaling * layer.lora_B @ layer.lora_A
    assert_close(layer.row_norm(), V.norm(dim=1), rtol=1e-10, atol=1e-12)


def test_dora_row_of_zeros():
    """0 / 0 is where PEFT has NaN. The row stays zero at first, and can still learn."""
    base = base_layer("linear")
    base.weight.data[2] = 0
    layer = METHODS["dora"](base, AdapterConfig("dora", RANK, ALPHA))
    x = inputs(layer)
    assert torch.equal(layer(x), base(x))
    layer(x).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters() if p.requires_grad)
    assert layer.lora_B.grad[2].any()
    layer.merge(), layer.unmerge()
    assert torch.equal(layer(x), base(x))


def test_rslora_output_does_not_fade_with_rank():
    """After one SGD step from B = 0 the output has moved by about as much at rank 256 as at 16; LoRA's by 1/16."""

    def moved(method, rank):
        total = 0.0
        for seed in range(10):
            layer = make(method, "linear", 64, 64, rank, alpha=1, random=False, seed=seed)
            x = torch.randn(64)
            before = layer(x)
            before.square().sum().backward()
            with torch.no_grad():
                layer.lora_B -= 1e-4 * layer.lora_B.grad
                total += float((layer(x) - before).norm())
        return total

    assert moved("rslora", 256) / moved("rslora", 16) == pytest.approx(1, rel=0.3)
    assert moved("lora", 256) / moved("lora", 16) == pytest.approx(1 / 16, rel=0.3)
    assert moved("rslora", 1) == moved("lora", 1)


def test_pissa_takes_the_largest_singular_values_and_olora_orthonormal_columns():
    torch.manual_seed(0)
    W = base_layer("linear").weight.detach()
    layer = make("pissa", random=False)
    S = torch.linalg.svdvals(W)
    assert_close(torch.linalg.svdvals(layer.delta_weight())[:RANK], S[:RANK], rtol=1e-5, atol=1e-5)
    assert_close(torch.linalg.svdvals(layer.weight)[: OUT - RANK], S[RANK:], rtol=1e-5, atol=1e-5)
    layer = make("olora", random=False)
    assert_close(layer.lora_B.T @ layer.lora_B, torch.eye(RANK), rtol=0, atol=1e-6)
    Q, R = torch.linalg.qr(W)
    assert torch.equal(layer.lora_A, R[:RANK]) and torch.equal(layer.lora_B, Q[:, :RANK])


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("method", CHANGES_THE_BASE)
def test_a_changed_base_amounts_to_a_plain_lora(method, kind):
    layer = make(method, kind).double()
    weight, x = layer.weight.clone(), inputs(layer)
    plain = layer.plain_lora()
    assert type(plain) is LoRA and (plain.config.rank, plain.scaling) == (2 * RANK, layer.scaling)
    assert_close(plain(x), layer(x), rtol=0, atol=1e-12)
    assert torch.equal(layer.weight, weight)
    assert_close(plain.weight, make(method, kind).double().release().weight, rtol=0, atol=1e-12)


def test_olora_on_conv1d_is_that_of_the_transposed_linear():
    """PEFT crashes here, so a Linear with the same weight is the oracle."""
    conv = make("olora", "conv1d", random=False)
    base = nn.Linear(IN, OUT)
    base.weight.data.copy_(conv.base_layer.weight.T + (conv.scaling * conv.lora_B @ conv.lora_A))
    linear = METHODS["olora"](base, conv.config)
    assert_close(linear.lora_A.abs(), conv.lora_A.abs(), rtol=1e-4, atol=1e-5)
    assert_close(linear.weight, weight_view(conv.base_layer), rtol=1e-4, atol=1e-5)


def test_lokr_splits_as_peft():
    assert all(split(size) == factorization(size) for size in range(1, 800))


def kept_for_backward(layer, x):
    """How many numbers autograd keeps, each storage once, parameters and buffers left out."""
    return measure(layer, x, loss=lambda layer, x: layer(x).sum()).saved // 4


def test_numbers_kept_for_backward():
    """N tokens, d in, k out: the saving that is LoRA-FA's point, and what the others cost."""
    N, d, k, r = 64, 96, 80, 4
    x = torch.randn(N, d, requires_grad=True)
    kept = {m: kept_for_backward(make(m, "linear", d, k, r), x) for m in ("lora", "lora_fa", "dora", "vera", "ia3")}
    assert kept["lora"] == N * d + N * r and kept["lora_fa"] == N * r
    assert kept["dora"] <= N * d + N * r + N * k + 4 * k
    assert kept["vera"] <= N * r * 2 + N * k and kept["ia3"] == N * k
    products = kept_for_backward(make("loha", "linear", d, k, r), x)
    assert products == N * d + k * d  # x and the product, not its two factors of the same size


def model_with(method, name="bert", targets=None, **more):
    targets = targets or {"bert": ["query", "output.dense"], "gpt2": ["c_attn", "mlp.c_proj"]}[name]
    torch.manual_seed(3)
    return inject(build(name), AdapterConfig(method, RANK, ALPHA, targets, trainable=HEADS[name], **more))


def test_vera_has_one_pair_whatever_happens_to_the_model():
    model = model_with("vera", seed=5)
    layers = [*adapters(model).values()]
    widest = max(a.in_features for a in layers), max(a.out_features for a in layers)
    assert len({(a.in_features, a.out_features) for a in layers}) > 1

    def pair(model):
        found = {id(a.pair): a.pair for a in adapters(model).values()}
        assert len(found) == 1
        return found.popitem()[1]

    before = pair(model)
    assert (before.A.shape, before.B.shape) == ((RANK, widest[0]), (widest[1], RANK))
    assert not any("pair" in key for key in model.state_dict())
    twins = copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model_with("vera", seed=5)
    for twin in twins:
        assert pair(twin) is not before and torch.equal(pair(twin).A, before.A) and torch.equal(pair(twin).B, before.B)
    assert not torch.equal(pair(model_with("vera", seed=6)).A, before.A)
    half = pair(copy.deepcopy(model).bfloat16())
    assert half.A.dtype == torch.bfloat16 and torch.equal(half.A, before.A.bfloat16())
    row = parameter_report(model).rows[0]
    assert row.trainable == sum(RANK + a.out_features for a in layers)
    assert row.frozen == before.A.numel() + before.B.numel()


def test_vera_pair_from_a_file_that_holds_another(tmp_path):
    """A PEFT file may hold A and B, drawn by another version of torch: then those count."""
    from safetensors.torch import load_file, save_file

    model = model_with("vera")
    randomise(model)
    save_adapter(model, tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    assert not any("vera_A" in key for key in load_file(path))
    pair = next(iter(adapters(model).values())).pair
    nn.init.normal_(pair.A), nn.init.normal_(pair.B)
    held = {"base_model.vera_A": pair.A, "base_model.vera_B": pair.B}
    save_file(load_file(path) | held, path)
    assert torch.equal(load_adapter(build("bert"), tmp_path)(**batch("bert")).logits, model(**batch("bert")).logits)
    save_file(load_file(path) | {"base_model.vera_A": pair.A[:, :3].clone()}, path)
    with pytest.raises(ValueError, match=r"vera_A is \(3, 3\), the model needs"):
        load_adapter(build("bert"), tmp_path)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
@pytest.mark.parametrize("method", CHANGES_THE_BASE)
def test_a_changed_base_is_given_back(method, name):
    base = build(name)
    model = inject(build(name), AdapterConfig(method, RANK, ALPHA, trainable=HEADS[name]))
    names, inputs = [*adapters(model)], batch(name)
    assert all(not torch.allclose(model.get_submodule(n).weight, base.get_submodule(n).weight) for n in names)
    optimizer = make_optimizer(model, lr=1e-2)
    model(**inputs).loss.backward()
    optimizer.step()
    trained, twin = model(**inputs).logits, copy.deepcopy(model)
    eject(merge(twin))
    assert not adapters(twin)
    assert_close(twin(**inputs).logits, trained, rtol=1e-5, atol=1e-5)
    unmerge(merge(model))
    assert_close(model(**inputs).logits, trained, rtol=1e-5, atol=1e-5)
    eject(model)
    for key, p in base.named_parameters():
        if not key.startswith(tuple(HEADS[name]) or ("-",)):
            assert_close(model.get_parameter(key), p, rtol=0, atol=1e-6)
    inject(model, AdapterConfig(method, RANK, ALPHA, trainable=HEADS[name]))


def test_saving_draws_no_random_numbers_and_changes_nothing(tmp_path):
    for method in METHODS:
        model = model_with(method)
        before = {key: t.clone() for key, t in model.state_dict().items()}
        state = torch.get_rng_state()
        save_adapter(model, tmp_path)
        assert torch.equal(torch.get_rng_state(), state), method
        assert all(torch.equal(t, before[key]) for key, t in model.state_dict().items()), method


def test_houlsby_files_are_our_own(tmp_path):
    import json

    model = model_with("houlsby", targets=["output.dense", "word_embeddings"])
    randomise(model)
    save_adapter(model, tmp_path)
    path = tmp_path / "adapter_config.json"
    text = json.loads(path.read_text())
    assert text["method"] == "houlsby" and text["rank"] == RANK and "peft_type" not in text
    again = load_adapter(build("bert"), tmp_path)
    assert torch.equal(again(**batch("bert")).logits, model(**batch("bert")).logits)
    assert again.bert.encoder.layer[0].output.dense.up_bias.requires_grad
    load_adapter(model, tmp_path)
    path.write_text(json.dumps(text | {"width": 3}))
    with pytest.raises(ValueError, match="not a usable adapter config.*width"):
        load_adapter(build("bert"), tmp_path)
    path.write_text(json.dumps(text | {"method": "hoolsby"}))
    with pytest.raises(ValueError, match="peft_type is None; we read"):
        load_adapter(build("bert"), tmp_path)


def test_lora_fa_comes_back_as_lora_fa_and_rests_in_checkpoints(tmp_path):
    model = model_with("lora_fa")
    layers = adapters(model)
    assert {key.rpartition(".")[2] for key in trainable_tensors(model) if "lora_" in key} == {"lora_A", "lora_B"}
    assert parameter_report(model).rows[0].trainable == sum(RANK * a.out_features for a in layers.values())
    assert parameter_report(model).rows[0].frozen == sum(RANK * a.in_features for a in layers.values())
    save_adapter(model, tmp_path)
    again = adapters(load_adapter(build("bert"), tmp_path))
    assert all(type(a) is METHODS["lora_fa"] and torch.equal(a.lora_A, layers[n].lora_A) for n, a in again.items())


REFUSALS = [
    *((m, {"target_modules": ["query", "word_embeddings"]}, "'bert.embeddings.word_embeddings': .*not for an embedding")
      for m in METHODS if "embedding" not in METHODS[m].kinds),
    *((m, {"dropout": 0.1}, f"{m} has no dropout, got 0.1") for m in METHODS if not METHODS[m].has_dropout),
    *((m, {"rank": 25}, f"{m} takes rank 25 out of a weight of 24 x 24: the rank can be at most 24")
      for m in CHANGES_THE_BASE),
]  # fmt: skip


@pytest.mark.parametrize(("method", "changes", "words"), REFUSALS)
def test_refusals_leave_the_model_untouched(method, changes, words):
    model = build("bert")
    before = repr(model), [(n, p.requires_grad, p.clone()) for n, p in model.named_parameters()]
    config = AdapterConfig(
        **{"method": method, "rank": 2, "target_modules": ["query"], "trainable": ["classifier"]} | changes
    )
    with pytest.raises(ValueError, match=words):
        inject(model, config)
    assert repr(model) == before[0]
    for (name, grad, value), (n, p) in zip(before[1], model.named_parameters(), strict=True):
        assert name == n and grad == p.requires_grad and torch.equal(value, p)


@pytest.mark.parametrize("method", CHANGES_THE_BASE)
def test_a_base_weight_that_cannot_be_changed_is_refused(method):
    model = build("llama")
    with pytest.raises(ValueError, match="changes the base weight, and that of 'lm_head' .* 'model.embed_tokens'"):
        inject(model, AdapterConfig(method, RANK, ALPHA, ["lm_head"]))
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="'model.layers.1.mlp.up_proj': .*NaN"):
        inject(model, AdapterConfig(method, RANK, ALPHA, ["up_proj"]))
    assert all(p.requires_grad for p in model.parameters())
    with torch.device("meta"), pytest.raises(ValueError, match="no values"):
        METHODS[method](nn.Linear(4, 4), AdapterConfig(method, RANK))


def test_merges_that_are_refused():
    model = model_with("houlsby")
    with pytest.raises(ValueError, match="refusing to merge: the adapter at 'bert.*nonlinearity"):
        merge(model)
    with pytest.raises(ValueError, match="refusing to merge: this adapter is a network"):
        make("houlsby").merge()
    with pytest.raises(ValueError, match="not linear"):
        make("houlsby").delta_weight()
    for method, name in (("ia3", "ia3_l"), ("dora", "lora_magnitude_vector")):
        layer = make(method)
        getattr(layer, name).data[1] = 0
        with pytest.raises(ValueError, match="no unmerge could undo"):
            layer.merge()
    for method in STATIC:
        if method != "houlsby":
            layer = make(method)
            before = layer.weight.clone()
            next(p for p in layer.parameters() if p.requires_grad).data.flatten()[0] = math.nan
            with pytest.raises(ValueError, match="NaN"):
                layer.merge()
            assert torch.equal(layer.weight, before) and not layer.merged


def test_a_layer_that_fails_half_way_leaves_the_model_trainable():
    class Fails(LoRA):
        def __init__(self, base_layer, config):
            super().__init__(base_layer, config)
            raise NotImplementedError("Exercise 02.1")

    model = build("bert").train()
    with pytest.raises(NotImplementedError):
        inject(model, AdapterConfig(target_modules=["query"], trainable=["classifier"]), layer=Fails)
    assert not adapters(model) and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_adapters_take_over_the_mode_of_their_layers(training):
    model = build("bert").train(training)
    inject(model, AdapterConfig(dropout=0.5, target_modules=["query"], trainable=["classifier"]))
    assert all(module.training == training for module in model.modules())


@pytest.mark.parametrize(("method", "kind"), PLACES)
def test_dtypes(method, kind):
    for dtype in (torch.bfloat16, torch.float16):
        base = base_layer(kind).to(dtype)
        x = inputs_of(kind, IN, dtype)
        expected = base(x)
        layer = METHODS[method](base, AdapterConfig(method, RANK, ALPHA))
        assert {p.dtype for p in layer.parameters()} == {dtype}
        out = layer(x)
        assert out.dtype == dtype
        assert_close(out, expected, rtol=0.05, atol=0.05)
        randomise(layer)
        out = layer(x)
        if method != "houlsby":
            layer.merge()
            assert layer.weight.dtype == dtype
            assert_close(layer(x), out, rtol=0.1, atol=0.2)


class Small(nn.Module):
    """Two layers of different widths."""

    def __init__(self):
        super().__init__()
        self.first, self.second = base_layer("conv1d", IN, OUT), base_layer("linear", OUT, IN)

    def forward(self, x):
        return self.second(F.gelu(self.first(x)))


@pytest.mark.parametrize("method", METHODS)
def test_compile_copy_and_pickle(method):
    torch.manual_seed(0)
    model = inject(Small(), AdapterConfig(method, RANK, ALPHA)).eval()
    randomise(model)
    x = torch.randn(5, IN)
    expected = model(x)
    wanted = [p for p in model.parameters() if p.requires_grad]
    grads = torch.autograd.grad(expected.square().sum(), wanted)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), expected)
        randomise(twin)
        assert not torch.equal(twin(x), expected) and torch.equal(model(x), expected)
    torch._dynamo.reset()
    out = torch.compile(model, backend="aot_eager", fullgraph=True)(x)
    assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert_close(torch.autograd.grad(out.square().sum(), wanted), grads, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("method", STATIC)
def test_gradient_checkpointing(method, name):
    """transformers' own: blocks are recomputed in the backward pass, with the same dropout."""
    more = {"dropout": 0.25} if METHODS[method].has_dropout else {}
    model = model_with(method, name, **more).train()
    randomise(model)
    results = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.zero_grad()
        torch.manual_seed(0)
        model(**batch(name)).loss.backward()
        results.append({key: p.grad for key, p in model.named_parameters() if p.requires_grad})
    for key, grad in results[0].items():
        assert grad is not None and torch.equal(grad, results[1][key]), key


def test_vera_layer_alone_makes_its_own_pair():
    layer = make("vera", random=False)
    assert layer.pair.A.shape == (RANK, IN) and layer.pair.B.shape == (OUT, RANK)
    assert isinstance(layer, VeRA) and not layer.pair.A.requires_grad
