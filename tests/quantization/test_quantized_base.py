"""The quantized layer against the dense layer with the weight it stands for, and adapters over it."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
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
from lora_course.adapters import METHODS
from lora_course.adapters.attention import split_attention
from lora_course.adapters.base import layer_kind, weight_view
from lora_course.quantization import dequantize_base, quantize_base
from lora_course.quantization.linear import Int8Layer, NF4Layer, QuantizedLayer
from lora_course.training.checkpoint import _frozen_checksum
from tests.adapters.models import HEADS, batch, build

IN, OUT, RANK, ALPHA = 20, 14, 3, 5
LAYERS = {"nf4": NF4Layer, "int8": Int8Layer}
formats = pytest.mark.parametrize("format", LAYERS)
kinds = pytest.mark.parametrize("kind", ["linear", "conv1d"])
REFUSED = ("pissa", "olora", "loftq")  # they begin by changing the base


def plain_layer(kind, bias=True):
    torch.manual_seed(0)
    layer = nn.Linear(IN, OUT, bias=bias) if kind == "linear" else Conv1D(OUT, IN)
    nn.init.normal_(layer.weight, std=0.5)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return layer


def make(format, kind="linear", **more):
    return LAYERS[format](plain_layer(kind, **more))


def inputs(*shape, dtype=torch.float32, seed=1):
    return torch.randn(*shape, IN, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def saved_for_backward(module, x):
    """Shapes of what autograd keeps, parameters and buffers left out."""
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    kept = {}

    def note(t):
        if t.untyped_storage().data_ptr() not in own:
            kept[t.untyped_storage().data_ptr()] = tuple(t.shape)
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        module(x)
    return sorted(kept.values())


@formats
@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(5,), (2, 3), ()])
def test_equals_the_dense_layer_of_the_same_weight(format, kind, dtype, shape):
    layer, x = make(format, kind).to(dtype), inputs(*shape, dtype=dtype)
    W = layer.dense()
    assert W.dtype == dtype and W.shape == (OUT, IN)
    out, expected = layer(x), F.linear(x, W, layer.bias)
    assert torch.equal(out, expected)
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    assert torch.equal(*(torch.autograd.grad(y, x, g)[0] for y in (out, expected)))
    assert [p.requires_grad for p in layer.parameters()] == [False]


@formats
@kinds
def test_the_weight_is_the_original_to_the_formats_precision(format, kind):
    original, layer = plain_layer(kind), make(format, kind)
    assert layer_kind(layer) == kind and layer.weight.shape == original.weight.shape
    assert torch.equal(weight_view(layer), layer.dense())
    apart = float((layer.weight - original.weight.detach()).norm() / original.weight.detach().norm())
    assert apart < {"nf4": 0.1, "int8": 0.01}[format]
    assert torch.equal(layer.bias, original.bias) and original.weight.requires_grad and original.bias.requires_grad


@formats
def test_gradients_of_gradients_and_of_the_bias(format):
    layer, x = make(format).double(), inputs(4, dtype=torch.float64)
    layer.bias.requires_grad_(True)
    g = torch.randn(4, OUT, dtype=torch.float64)
    got = torch.autograd.grad(layer(x), [x, layer.bias], g)
    wanted = torch.autograd.grad(F.linear(x, layer.dense(), layer.bias), [x, layer.bias], g)
    assert_close(got, wanted, rtol=0, atol=1e-14)
    assert torch.autograd.gradcheck(layer, x) and torch.autograd.gradgradcheck(layer, x)


@formats
@pytest.mark.usefixtures("plain")
def test_keeps_no_dense_weight_for_the_backward_pass(format):
    layer, x = make(format), inputs(7)
    assert saved_for_backward(layer, x) == []
    lora = METHODS["lora"](layer, AdapterConfig(rank=RANK, alpha=ALPHA))
    dense = METHODS["lora"](plain_layer("linear"), AdapterConfig(rank=RANK, alpha=ALPHA))
    kept = [(7, RANK), (7, IN)]
    assert saved_for_backward(lora, x) == kept
    assert [sorted(shape) for shape in saved_for_backward(dense, x)] == [sorted(shape) for shape in kept]


@formats
@kinds
def test_dtype_changes_never_touch_the_stored_numbers(format, kind):
    layer = make(format, kind)
    before = {name: t.clone() for name, t in layer.packed().items()}
    weight = layer.weight
    layer = layer.to(torch.bfloat16).half().double().to("cpu", torch.float32)
    assert {n: t.dtype for n, t in layer.packed().items()} == {n: t.dtype for n, t in before.items()}
    assert all(torch.equal(t, before[name]) for name, t in layer.packed().items())
    assert torch.equal(layer.weight, weight)
    half = copy.deepcopy(layer).bfloat16()
    assert half.dtype == half.weight.dtype == half.bias.dtype == torch.bfloat16
    assert torch.equal(half.weight, weight.bfloat16()) and layer.weight.dtype == torch.float32
    assert make(format, "linear", bias=False).half().weight.dtype == torch.float16


@formats
@kinds
def test_copies_pickles_and_state_dicts(format, kind, tmp_path):
    layer, x = make(format, kind), inputs(5)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
        twin.codes.zero_()
        assert not torch.equal(twin(x), layer(x))
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    state = load_file(tmp_path / "layer.safetensors")
    other = LAYERS[format](type(plain_layer(kind))(*((IN, OUT) if kind == "linear" else (OUT, IN))))
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(state)
    assert torch.equal(other(x), layer(x))
    with torch.device("meta"):
        empty = LAYERS[format](plain_layer(kind))
    assert empty(x.detach().to("meta")).shape == (5, OUT) and empty.weight.is_meta
    empty.load_state_dict(state, assign=True)
    assert torch.equal(empty(x), layer(x))
    with pytest.raises(RuntimeError, match="[Mm]issing key"):
        other.load_state_dict(plain_layer(kind).state_dict())


@formats
@pytest.mark.usefixtures("plain")
def test_compiles_to_the_same_numbers(format):
    model = inject(quantize_base(nn.Sequential(nn.Linear(IN, OUT), nn.GELU(), nn.Linear(OUT, IN)), format),
                   AdapterConfig(rank=RANK, alpha=ALPHA))  # fmt: skip
    for adapter in adapters(model).values():
        nn.init.normal_(adapter.lora_B)
    x, wanted = inputs(5), [p for p in model.parameters() if p.requires_grad]
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert_close(compiled(x), model(x), rtol=0, atol=1e-6)
    got, expected = (torch.autograd.grad(f(x).square().sum(), wanted) for f in (compiled, model))
    assert_close(got, expected, rtol=1e-5, atol=1e-5)


@formats
def test_autocast(format):
    layer, x = make(format), inputs(5)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
        expected = F.linear(x, layer.dense(), layer.bias)
    assert out.dtype == torch.bfloat16 and torch.equal(out, expected)
    g = torch.randn(5, OUT).bfloat16()
    got, wanted = (torch.autograd.grad(y, x, g)[0] for y in (out, expected))
    assert got.dtype == torch.float32 and torch.equal(got, wanted)


def test_bits_a_weight_on_disk(tmp_path):
    layer = nn.Linear(1024, 768, bias=False)
    for format, low, high in (("nf4", 4.12, 4.14), ("int8", 8.0, 8.05)):
        quantized = LAYERS[format](layer)
        path = tmp_path / f"{format}.safetensors"
        save_file(quantized.state_dict(), path)
        on_disk = 8 * path.stat().st_size / layer.weight.numel()
        assert low < on_disk < high
        assert 0 < path.stat().st_size - quantized.packed_bytes() < 1000  # the file's header
    ideal = 4 + 8 / 64 + 32 / (64 * 256)
    assert 8 * NF4Layer(layer).packed_bytes() / layer.weight.numel() == pytest.approx(ideal, abs=1e-4)


@pytest.mark.parametrize("wrong", [nn.Embedding(4, 3), nn.LayerNorm(4), nn.Conv2d(1, 2, 3)])
def test_layers_that_cannot_be_quantized(wrong):
    for cls in LAYERS.values():
        with pytest.raises(TypeError, match=f"not {type(wrong).__name__}"):
            cls(wrong)
    with pytest.raises(TypeError, match="not NF4Layer"):
        NF4Layer(make("nf4"))


# ------------------------------------------------------------------------------------------------ whole models


@formats
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
def test_which_layers_are_quantized(format, name):
    model = build(name)
    plain = {n: m for n, m in model.named_modules() if layer_kind(m) in ("linear", "conv1d")}
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert quantize_base(model, format) is model
    quantized = {n for n, m in model.named_modules() if isinstance(m, QuantizedLayer)}
    assert plain.keys() - quantized == {"bert": {"classifier"}}.get(name, {"lm_head"} & plain.keys())
    assert all(type(model.get_submodule(n)) is LAYERS[format] for n in quantized)
    left = {n for n, p in model.named_parameters() if p.requires_grad}
    assert left == trainable - {f"{n}.{p}" for n in quantized for p in ("weight", "bias")}
    assert torch.isfinite(model(**batch(name)).logits).all() and not model.training


def test_quantizing_prints_nothing(capsys):
    quantize_base(build("bert"))
    assert capsys.readouterr() == ("", "")


def test_int8_outputs_are_near_and_nf4_ones_less():
    apart = {}
    for format in LAYERS:
        model = build("bert")
        before = model(**batch("bert")).logits.detach()
        apart[format] = float((quantize_base(model, format)(**batch("bert")).logits.detach() - before).abs().max())
    assert 0 < apart["int8"] < apart["nf4"] < 0.5


@formats
@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("method", [m for m in METHODS if m not in REFUSED])
def test_adapters_over_it_equal_those_over_the_dequantized_model(method, name, format, tmp_path):
    """Outputs and every gradient; then a step, and files, and no merge."""
    config = AdapterConfig(method, RANK, ALPHA, trainable=HEADS[name])
    quantized = quantize_base(build(name), format)
    dense = dequantize_base(copy.deepcopy(quantized))
    assert not any(isinstance(m, QuantizedLayer) for m in dense.modules())
    start = quantized(**batch(name)).logits
    assert torch.equal(dense(**batch(name)).logits, start)
    for model in (quantized, dense):
        torch.manual_seed(5)
        inject(model, config)
    if method != "houlsby":
        assert torch.equal(quantized(**batch(name)).logits, start)
    torch.manual_seed(6)
    for (key, p), (other, q) in zip(_trainable(quantized), _trainable(dense), strict=True):
        assert key == other
        p.data.add_(torch.randn(p.shape) * 0.1)
        q.data.copy_(p)
    results = []
    for model in (quantized, dense):
        output = model(**batch(name))
        output.loss.backward()
        results.append((output.logits.detach(), {key: p.grad for key, p in _trainable(model)}))
    assert_close(*results, rtol=1e-5, atol=1e-6)
    assert all(grad is not None for grad in results[0][1].values())

    make_optimizer(quantized, lr=1e-2).step()
    after = quantized(**batch(name)).logits.detach()
    assert not torch.equal(after, results[0][0])
    save_adapter(quantized, tmp_path)
    again = load_adapter(quantize_base(build(name), format), tmp_path)
    assert_close(again(**batch(name)).logits, after, rtol=1e-6, atol=1e-6)

    packed = {key: b.clone() for key, b in quantized.named_buffers() if "base_layer" in key}
    with pytest.raises(ValueError, match="refusing to merge: the adapter at '.*(a base of|a network)"):
        merge(quantized)
    assert all(torch.equal(b, packed[key]) for key, b in quantized.named_buffers() if key in packed)
    if method != "houlsby":
        dequantize_base(quantized)
        assert_close(quantized(**batch(name)).logits, after, rtol=1e-6, atol=1e-6)
        assert_close(merge(quantized)(**batch(name)).logits, after, rtol=1e-4, atol=1e-4)
        assert_close(unmerge(quantized)(**batch(name)).logits, after, rtol=1e-4, atol=1e-4)
    assert not adapters(eject(quantized))


def _trainable(model):
    return [(key, p) for key, p in model.named_parameters() if p.requires_grad]


@formats
@pytest.mark.parametrize("method", REFUSED)
def test_methods_that_change_the_base_are_refused(method, format):
    model = quantize_base(build("bert"), format)
    before = repr(model)
    with pytest.raises(ValueError, match="target 'bert.encoder.*(use method='loftq'|inject it without quantize_base)"):
        inject(model, AdapterConfig(method, RANK, ALPHA))
    assert repr(model) == before


def test_what_a_merge_would_lose_is_measured():
    torch.manual_seed(0)
    base = nn.Linear(256, 192)
    for format, ratios in (("nf4", (0.02, 1.0)), ("int8", (0.002, 1.0))):
        adapter = METHODS["lora"](LAYERS[format](base), AdapterConfig(rank=RANK, alpha=ALPHA))
        with pytest.raises(ValueError, match="undefined for a change of 0"):
            adapter.merge()
        nn.init.normal_(adapter.lora_B)
        W, kept = adapter.base_layer.dense(), {}
        for ratio in ratios:
            adapter.lora_B.data.mul_(ratio * W.norm() / adapter.delta_weight().norm())
            delta = adapter.delta_weight().detach()  # this share of W, in norm
            left = LAYERS[format](base, W + delta).dense() - W
            kept[ratio] = float((left * delta).sum() / left.norm() / delta.norm())
            with pytest.raises(ValueError, match=f"a base of {format}.*what would be left of it is {kept[ratio]:.2f}"):
                adapter.merge()
            assert not adapter.merged
        assert kept[ratios[0]] < 0.6 and kept[ratios[1]] > 0.95


def test_the_report_counts_weights_and_packed_bytes():
    model = build("llama")
    before = parameter_report(model)
    layers = [m for n, m in model.named_modules() if layer_kind(m) == "linear" and n != "lm_head"]
    size = sum(m.weight.nbytes for m in layers)
    quantize_base(model)
    packed = sum(m.packed_bytes() for m in model.modules() if isinstance(m, QuantizedLayer))
    # 4 bits, a byte for 64 weights, and for each matrix a float32 for 256 of those bytes and one for the mean
    sizes = [m.weight.numel() for m in layers]
    blocks = [-(n // -64) for n in sizes]
    assert packed == sum(n // 2 + b + 4 * -(b // -256) + 4 for n, b in zip(sizes, blocks, strict=True))
    after = parameter_report(model)
    assert after.total == before.total and after.bytes == before.bytes - size + packed
    config = AdapterConfig(rank=RANK, alpha=ALPHA)
    rows = {row.part: row for row in parameter_report(inject(model, config)).rows}
    assert rows["frozen base"].frozen == before.total and rows["frozen base"].bytes == after.bytes
    assert rows["adapters"].trainable == sum(RANK * (m.in_features + m.out_features) for m in layers)


REFUSALS = [
    (lambda m: quantize_base(m, "int4"), "unknown format 'int4'; there are 'nf4', 'int8'"),
    (lambda m: quantize_base(m, target_modules=["querry"]), "'querry' matches no layer .*did you mean 'query'"),
    (lambda m: quantize_base(m, target_modules=["query", "word_embeddings"]), "word_embeddings' is an embedding"),
    (lambda m: quantize_base(inject(m, AdapterConfig(trainable=["classifier"]))), "has adapters: quantize a plain"),
    (lambda m: quantize_base(quantize_base(m, target_modules=["query"])), "query' is quantized already, to nf4"),
    (lambda m: dequantize_base(m), "has no quantized layer"),
]


@pytest.mark.parametrize(("action", "words"), REFUSALS)
def test_refusals(action, words):
    with pytest.raises(ValueError, match=words):
        action(build("bert"))


def test_refusals_leave_the_model_as_it_was():
    model = build("bert")
    model.bert.encoder.layer[1].output.dense.weight.data[0, 0] = float("nan")
    before = repr(model), [p.requires_grad for p in model.parameters()]
    with pytest.raises(ValueError, match="'bert.encoder.layer.1.output.dense': cannot quantize 1 of 960 entries: NaN"):
        quantize_base(model)
    assert (repr(model), [p.requires_grad for p in model.parameters()]) == before
    llama = build("llama")
    with pytest.raises(ValueError, match="quantization changes the base weight, and that of 'lm_head' is also"):
        quantize_base(llama, target_modules=["lm_head"])

    class Twice(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(nn.Linear(4, 6), Twice(6, 4))
    with pytest.raises(ValueError, match="'1' is a Twice with a forward of its own"):
        quantize_base(model)
    assert type(model[0]) is nn.Linear


def test_a_layer_with_two_names_stays_one():
    layer = nn.Linear(IN, IN)
    model = quantize_base(nn.Sequential(layer, nn.GELU(), layer))
    assert model[0] is model[2] and isinstance(model[0], NF4Layer)
    dequantize_base(model)
    assert model[0] is model[2] and type(model[0]) is nn.Linear


def test_a_class_of_your_own():
    class Mine(Int8Layer):
        def forward(self, x):
            return 2 * super().forward(x)

    model = quantize_base(build("bert"), layer=Mine, target_modules=["query"])
    found = [type(m) for m in model.modules() if isinstance(m, QuantizedLayer)]
    assert found == [Mine, Mine]


def test_only_what_is_named():
    model = quantize_base(build("gpt2"), "int8", target_modules=["mlp.c_proj"])
    found = [n for n, m in model.named_modules() if isinstance(m, QuantizedLayer)]
    assert found == ["transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_proj"]
    inject(model, AdapterConfig("pissa", RANK, ALPHA, ["c_attn"]))  # the rest takes every method


def test_dequantized_layers_are_of_the_kind_they_were():
    for name in ("bert", "gpt2"):
        model = build(name)
        before = {n: (type(m), m.weight.shape) for n, m in model.named_modules() if layer_kind(m)}
        model = dequantize_base(quantize_base(model))
        assert {n: (type(m), m.weight.shape) for n, m in model.named_modules() if layer_kind(m)} == before


def test_split_attention_can_be_quantized():
    torch.manual_seed(0)
    model = split_attention(nn.TransformerEncoderLayer(24, 3, 40, dropout=0.0, batch_first=True))
    x = torch.randn(2, 5, 24)
    inject(quantize_base(model, "int8"), AdapterConfig(rank=RANK, alpha=ALPHA))
    assert sum(isinstance(m, QuantizedLayer) for m in model.modules()) == 6
    model(x).sum().backward()
    assert all(a.lora_B.grad is not None for a in adapters(model).values())


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_gradient_checkpointing():
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = inject(quantize_base(build("bert")), AdapterConfig(rank=RANK, alpha=ALPHA, trainable=["classifier"]))
        model.train()
        for adapter in adapters(model).values():
            nn.init.normal_(adapter.lora_B, std=0.1)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model(**batch("bert")).loss.backward()
        grads.append({key: p.grad for key, p in _trainable(model)})
    assert_close(*grads, rtol=0, atol=0)


def test_a_checkpoint_tells_quantized_bases_apart():
    """A run must go on over the base that it began with."""
    sums = [
        _frozen_checksum(quantize_base(build("bert", seed), f)) for seed, f in ((0, "nf4"), (1, "nf4"), (0, "int8"))
    ]
    assert len(set(sums)) == 3 and sums[0] == _frozen_checksum(quantize_base(build("bert", 0)))
