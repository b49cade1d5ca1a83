"""SplitAttention against torch's own nn.MultiheadAttention, and LoRA inside it against PEFT's."""

import copy
import pickle

import peft
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from lora_course import AdapterConfig, adapters, eject, inject, load_adapter, merge, save_adapter
from lora_course.adapters.attention import SplitAttention, join_attention, split_attention

D, HEADS, N, L, S = 24, 4, 3, 7, 5
# One thread's matmul may block 3 d columns otherwise than 3 times d, and torch's fused inference kernel sums otherwise.
BAR = {"rtol": 0.0, "atol": 1e-6}
CONFIG = AdapterConfig(rank=3, alpha=7, target_modules=["q_proj", "k_proj", "v_proj", "out_proj"])


def make(seed=0, **settings):
    torch.manual_seed(seed)
    attention = nn.MultiheadAttention(D, HEADS, **settings)
    if attention.in_proj_bias is not None:  # torch starts them at 0, where a mistake would not show
        nn.init.normal_(attention.in_proj_bias)
        nn.init.normal_(attention.out_proj.bias)
    return attention


def inputs(attention, self_attention=False, seed=1):
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(N, L, D, generator=g)
    k = q if self_attention else torch.randn(N, S, attention.kdim, generator=g)
    v = q if self_attention else torch.randn(N, S, attention.vdim, generator=g)
    return (q, k, v) if attention.batch_first else tuple(x.transpose(0, 1) for x in (q, k, v))


def masks(kind, source):
    g = torch.Generator().manual_seed(2)
    hidden = torch.rand(N * HEADS, L, source, generator=g) < 0.4
    hidden[..., 0] = False  # a row that hides everything has no softmax
    padding = torch.zeros(N, source, dtype=torch.bool)
    padding[0, -2:] = True
    return {
        "none": {},
        "2-D": {"attn_mask": hidden[0]},
        "3-D": {"attn_mask": hidden},
        "float": {"attn_mask": torch.randn(L, source, generator=g)},
        "padding": {"key_padding_mask": padding},
        "float padding": {"key_padding_mask": torch.randn(N, source, generator=g)},
        "2-D and padding": {"attn_mask": hidden[0], "key_padding_mask": padding},
        "3-D and padding": {"attn_mask": hidden, "key_padding_mask": padding},
    }[kind]


def same(attention, split, args, **kwargs):
    expected, got = attention(*args, **kwargs), split(*args, **kwargs)
    assert_close(got[0], expected[0], **BAR)
    if kwargs.get("need_weights", True):
        assert_close(got[1], expected[1], **BAR)
    else:
        assert got[1] is None and expected[1] is None


KINDS = ["none", "2-D", "3-D", "float", "padding", "float padding", "2-D and padding", "3-D and padding"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_equals_multihead_attention(kind, need_weights, batch_first):
    for bias in (True, False):
        for self_attention in (True, False):
            attention = make(bias=bias, batch_first=batch_first)
            split = split_attention(attention)
            args = inputs(attention, self_attention)
            wanted = masks(kind, L if self_attention else S) | {"need_weights": need_weights}
            same(attention.train(), split.train(), args, **wanted)
            with torch.no_grad():  # torch's fused path, where it has one
                same(attention.eval(), split.eval(), args, **wanted)


@pytest.mark.parametrize("settings", [{"kdim": 10}, {"vdim": 14}, {"kdim": 10, "vdim": 14, "bias": False}])
def test_other_key_and_value_widths(settings):
    attention = make(**settings)
    split = split_attention(attention)
    same(attention, split, inputs(attention), average_attn_weights=False)
    same(join_attention(split), split, inputs(attention))


@pytest.mark.parametrize("need_weights", [True, False])
def test_unbatched_dropout_and_dtype(need_weights):
    attention = make(batch_first=True)
    split = split_attention(attention)
    q, k, v = (x[0] for x in inputs(attention))
    padding = torch.tensor([False] * (S - 1) + [True])
    same(attention, split, (q, k, v), need_weights=need_weights, key_padding_mask=padding)
    attention = make(dropout=0.4).train()
    results = []
    for layer in (attention, split_attention(attention)):
        torch.manual_seed(5)
        results.append(layer(*inputs(attention), need_weights=need_weights)[0])
    assert_close(*results, **BAR)
    assert not torch.equal(results[0], attention.eval()(*inputs(attention))[0])
    double = make().double()
    args = [x.double() for x in inputs(double)]
    assert_close(split_attention(double)(*args)[0], double(*args)[0], rtol=0, atol=1e-15)


def test_a_causal_mask_and_its_hint():
    attention = make(batch_first=True)
    args = inputs(attention, self_attention=True)
    causal = nn.Transformer.generate_square_subsequent_mask(L)
    for need_weights in (True, False):
        same(attention, split_attention(attention), args, attn_mask=causal, is_causal=True, need_weights=need_weights)
    with pytest.raises(ValueError, match="only a hint"):
        split_attention(attention)(*args, is_causal=True)


def adapted(attention, config=CONFIG, random=True):
    model = inject(split_attention(nn.ModuleDict({"attn": copy.deepcopy(attention)})), config)
    torch.manual_seed(4)
    for adapter in adapters(model).values():
        if random:
            nn.init.normal_(adapter.lora_B, std=0.3)
    return model


@pytest.mark.parametrize("need_weights", [True, False])
def test_adapters_start_at_the_identity_and_alone_get_gradients(need_weights):
    attention = make()
    model = adapted(attention, random=False)
    args = inputs(attention)
    assert_close(model["attn"](*args)[0], attention(*args)[0], **BAR)
    model["attn"](*args, need_weights=need_weights)[0].sum().backward()
    for name, p in model.named_parameters():
        assert p.requires_grad == (p.grad is not None) == (".lora_" in name), name
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == 4 * 3 * (D + D)


def test_only_query_and_value():
    model = adapted(make(), AdapterConfig(rank=2, target_modules=["q_proj", "v_proj"]))
    assert set(adapters(model)) == {"attn.q_proj", "attn.v_proj"}


def test_merge_and_join_give_a_plain_multihead_attention():
    attention = make(batch_first=True)
    model = adapted(attention)
    args = inputs(attention, self_attention=True)
    expected = model["attn"](*args)[0]
    deltas = [model["attn"].get_submodule(name).delta_weight() for name in ("q_proj", "k_proj", "v_proj", "out_proj")]
    with pytest.raises(ValueError, match="attn still has adapters"):
        join_attention(model)
    plain = join_attention(eject(merge(model)))["attn"]
    assert type(plain) is nn.MultiheadAttention
    assert_close(plain.in_proj_weight, attention.in_proj_weight + torch.cat(deltas[:3]), **BAR)
    assert_close(plain.out_proj.weight, attention.out_proj.weight + deltas[3], **BAR)
    assert_close(plain(*args)[0], expected, rtol=0, atol=1e-5)  # W + BA rounded once; the branch separately
    assert {n: p.shape for n, p in plain.named_parameters()} == {n: p.shape for n, p in attention.named_parameters()}


def test_split_and_join_change_nothing():
    attention = make(dropout=0.2, batch_first=True).requires_grad_(False).eval()
    again = join_attention(split_attention(attention))
    assert repr(again) == repr(attention) and again.__dict__.keys() == attention.__dict__.keys()
    for (name, p), (other, q) in zip(attention.named_parameters(), again.named_parameters(), strict=True):
        assert name == other and torch.equal(p, q) and p.requires_grad == q.requires_grad and p is not q
    for setting in ("dropout", "batch_first", "num_heads", "training", "kdim", "vdim", "_qkv_same_embed_dim"):
        assert getattr(again, setting) == getattr(attention, setting)


def test_against_peft():
    """PEFT gives the stacked weight one A and a B of 3 d rows: ours with that A three times and a third of B each.

    B of out_proj stays 0 here: PEFT 0.21 adds that change twice (huggingface/peft pull request 3774).
    """
    attention = make(batch_first=True)
    config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=["attn"], lora_dropout=0.0)
    theirs = peft.get_peft_model(nn.ModuleDict({"attn": copy.deepcopy(attention)}), config).base_model.model["attn"]
    nn.init.normal_(theirs.lora_B["default"].weight, std=0.3)
    ours = adapted(attention, AdapterConfig(rank=3, alpha=7, target_modules=["q_proj", "k_proj", "v_proj"]))["attn"]
    parts = (ours.q_proj, ours.k_proj, ours.v_proj)
    A, B = theirs.lora_A["default"].weight, theirs.lora_B["default"].weight
    with torch.no_grad():
        for part, adapter in zip(B.chunk(3), parts, strict=True):
            adapter.lora_A.copy_(A), adapter.lora_B.copy_(part)
    args, wanted = inputs(attention), masks("2-D and padding", S) | {"need_weights": False}
    outputs = [layer(*args, **wanted)[0] for layer in (ours, theirs)]
    assert_close(*outputs, rtol=0, atol=2e-6)  # PEFT multiplies by W + sBA, we by W and by B, A
    for output in outputs:
        output.square().mean().backward()
    # what three copies of one A receive adds up
    assert_close(sum(p.lora_A.grad for p in parts), A.grad, **BAR)
    assert_close(torch.cat([p.lora_B.grad for p in parts]), B.grad, **BAR)
    assert B.grad.abs().max() > 1e-2


def transformer(kind):
    torch.manual_seed(0)
    settings = {"d_model": D, "nhead": HEADS, "dim_feedforward": 40, "dropout": 0.0, "batch_first": True}
    if kind == "decoder":
        return nn.TransformerDecoder(nn.TransformerDecoderLayer(**settings), 2)
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(**settings), 2)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_inside_torch_transformers_the_adapters_are_used(kind):
    """In eval, torch's encoder would run one fused kernel on in_proj_weight and skip whatever we wrapped."""
    model, split = transformer(kind).eval(), split_attention(transformer(kind).eval())
    x = torch.randn(N, L, D)
    args = (x, torch.randn(N, S, D)) if kind == "decoder" else (x,)
    with torch.no_grad():
        assert_close(split(*args), model(*args), rtol=0, atol=5e-6)  # two layers of norms
        inject(split, AdapterConfig(rank=2, target_modules=["q_proj", "v_proj"]))
        assert len(adapters(split)) == (8 if kind == "decoder" else 4)
        before = split(*args)
        for adapter in adapters(split).values():
            nn.init.normal_(adapter.lora_B, std=0.1)  # with much more, attention magnifies what rounding does
        after = split(*args)
        assert not torch.allclose(after, before, atol=1e-3)
        assert_close(join_attention(eject(merge(split)))(*args), after, rtol=0, atol=5e-6)


def test_files_open_in_peft(tmp_path):
    attention = make()
    model = adapted(attention)
    args = inputs(attention)
    expected = model["attn"](*args)[0]
    save_adapter(model, tmp_path)
    base = split_attention(nn.ModuleDict({"attn": copy.deepcopy(attention)}))
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)
    assert_close(theirs.base_model.model["attn"](*args)[0], expected, **BAR)
    assert torch.equal(load_adapter(base, tmp_path)["attn"](*args)[0], expected)


def test_refusals_leave_the_model_untouched():
    class Block(nn.Module):
        def __init__(self, **settings):
            super().__init__()
            self.good, self.bad = make(), make(**settings)

    for settings in ({"add_bias_kv": True}, {"add_zero_attn": True}):
        block = Block(**settings)
        with pytest.raises(ValueError, match="add_bias_kv or add_zero_attn"):
            split_attention(block)
        assert type(block.good) is nn.MultiheadAttention
    with pytest.raises(ValueError, match="Linear has no nn.MultiheadAttention to split"):
        split_attention(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no SplitAttention to join"):
        join_attention(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ({"attn_mask": torch.zeros(S, L)}, r"attn_mask is \(5, 7\); it must be \(7, 5\) or \(12, 7, 5\)"),
        ({"key_padding_mask": torch.zeros(S, N)}, r"key_padding_mask is \(5, 3\); it must be \(3, 5\)"),
    ],
)
def test_masks_of_the_wrong_shape_are_named(masks, words):
    attention = make()
    with pytest.raises(ValueError, match=words):
        split_attention(attention)(*inputs(attention), **masks)


def test_one_attention_under_two_names_stays_one():
    model = nn.Module()
    model.a = model.b = make()
    split_attention(model)
    assert isinstance(model.a, SplitAttention) and model.a is model.b


def test_pickle_deepcopy_checkpointing_and_compile():
    attention = make()
    layer = adapted(attention)["attn"]
    args = inputs(attention)
    expected = layer(*args)[0]
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(*args)[0], expected)
    parameters = [p for p in layer.parameters() if p.requires_grad]
    plain = torch.autograd.grad(expected.square().sum(), parameters)
    again = torch.autograd.grad(checkpoint(layer, *args, use_reentrant=False)[0].square().sum(), parameters)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert_close(compiled(*args, need_weights=False)[0], layer(*args, need_weights=False)[0], **BAR)
