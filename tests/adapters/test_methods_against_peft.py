"""Every method that PEFT has, ours against theirs on the same weights and inputs: outputs, every gradient, three AdamW
steps, dropout, initialisation, files in both directions, merging.

PEFT is the oracle here and nowhere in our layers. Where our operations are the same in the same order the bar is bit
for bit; where they are not (DoRA's norm, PiSSA's signs) it is in ORACLES. AdamW divides a gradient by its size, which
makes the rounding of small ones large: parameters get ten times that, and an eps that is not small.
"""

import contextlib
import sys
import warnings

import peft
import pytest
import torch
from torch.testing import assert_close

from lora_course import AdapterConfig, adapters, eject, inject, load_adapter, merge, save_adapter, unmerge
from lora_course.adapters import METHODS
from lora_course.adapters.ia3 import scale_inputs
from lora_course.adapters.oracles import ORACLES
from tests.adapters.models import HEADS, TARGETS, batch, build

RANK, ALPHA, SEED = 3, 7, 11
EMBEDDINGS = {"word_embeddings", "wte", "embed_tokens"}


ORACLES = {m: o for m, o in ORACLES.items() if o.peft and m != "adalora"}  # of which test_adalora.py has more to say


def peft_config(method, dropout, **common):
    """PEFT's config of the oracle, with our rank, alpha, dropout and seed under its own names."""
    oracle = ORACLES[method]
    named = {
        "LoraConfig": {"r": RANK, "lora_alpha": ALPHA, "lora_dropout": dropout},
        "VeraConfig": {"r": RANK, "vera_dropout": dropout, "projection_prng_key": SEED},
        "IA3Config": {"feedforward_modules": []},
        "LoHaConfig": {"r": RANK, "alpha": ALPHA},
        "LoKrConfig": {"r": RANK, "alpha": ALPHA},
    }[oracle.peft]
    return getattr(peft, oracle.peft)(**named, **oracle.settings, **common)


def targets_of(method, targets):
    """The setting without embeddings for a method that has none."""
    if targets == "all-linear" or "embedding" in METHODS[method].kinds:
        return targets
    return [target for target in targets if target not in EMBEDDINGS]


CASES = [
    pytest.param(method, name, targets_of(method, targets), id=f"{method}-{name}-{i}")
    for method, oracle in ORACLES.items()
    for name in oracle.models
    for i, targets in enumerate(TARGETS[name])
]
SECOND = [case for case in CASES if case.id.endswith("-1")]  # with embeddings where the method has them
WITH_DROPOUT = [
    (*case.values, p) for case in CASES for p in (0.0, 0.25) if not p or METHODS[case.values[0]].has_dropout
]


def ours(method, name, targets, dropout=0.0):
    config = AdapterConfig(method, RANK, ALPHA, targets, dropout, trainable=HEADS[name], seed=SEED)
    torch.manual_seed(4)
    return inject(build(name), config)


@contextlib.contextmanager
def quietly():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tied embeddings, fan_in_fan_out
        yield


def theirs(method, name, targets, dropout=0.0):
    config = peft_config(
        method,
        dropout,
        target_modules=targets,
        task_type="SEQ_CLS" if name == "bert" else None,
        modules_to_save=[*HEADS[name]] or None,
    )
    torch.manual_seed(4)
    with quietly():
        model = peft.get_peft_model(build(name), config)
    if method == "lora_fa":
        for key, p in model.named_parameters():
            p.requires_grad_(p.requires_grad and "lora_A" not in key)
    return model


def our_parameters(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def peft_name(name):
    """PEFT's name of a parameter -> ours."""
    for part in ("base_model.model.", ".default", ".modules_to_save"):
        name = name.replace(part, "")
    name = name.replace("lora_embedding_", "lora_")
    return name.removesuffix(".weight") if ".lora_" in name else name


def peft_parameters(model):
    return {peft_name(name): p for name, p in model.named_parameters() if p.requires_grad}


def randomise(parameters, seed=2):
    """Random values for all, since a zero would hide every mistake in the branch behind it."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in sorted(parameters):
            p = parameters[name]
            p.copy_((torch.randn(p.numel(), generator=g) * 0.3).reshape(p.shape))


def pair(method, name, targets, dropout=0.0):
    mine, other = ours(method, name, targets, dropout), theirs(method, name, targets, dropout)
    assert our_parameters(mine).keys() == peft_parameters(other).keys()
    randomise(our_parameters(mine))
    randomise(peft_parameters(other))
    if method == "lora_fa":
        frozen = {peft_name(key): p for key, p in other.named_parameters() if "lora_A" in key}
        for key, adapter in adapters(mine).items():
            frozen[f"{key}.lora_A"].data.copy_(adapter.lora_A)
    return mine, other


def assert_same(mine, other, bar, what):
    """ia3_l is (out,) here and (out, 1) there. Rounding goes with the largest of the numbers that were added up."""
    bar = bar * max(1.0, float(other.detach().abs().max()))
    assert_close(mine, other.reshape(mine.shape), rtol=0.0, atol=bar, msg=lambda text: f"{what}: {text}")


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(("method", "name", "targets", "dropout"), WITH_DROPOUT)
def test_outputs_gradients_and_three_steps(method, name, targets, dropout):
    mine, other = pair(method, name, targets, dropout)
    assert_train_alike(mine, other, batch(name), ORACLES[method].bar)


@pytest.mark.parametrize("method", ["lora", "rslora", "lora_fa", "dora"])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_scale_that_is_no_power_of_two(method, name, monkeypatch):
    """alpha / r = 7/3: we scale before B and PEFT after it, so last bits differ. One pass: AdamW makes much of the
    rounding of gradients that are nearly 0.
    """
    monkeypatch.setattr(sys.modules[__name__], "RANK", 3), monkeypatch.setattr(sys.modules[__name__], "ALPHA", 7)
    mine, other = pair(method, name, "all-linear")
    outs = [model.train()(**batch(name)) for model in (mine, other)]
    for out in outs:
        out.loss.backward()
    assert_same(outs[0].logits, outs[1].logits, 2e-6, "logits")
    theirs_now = peft_parameters(other)
    for key, p in our_parameters(mine).items():
        assert_same(p.grad, theirs_now[key].grad, 2e-6, f"gradient of {key}")


def assert_train_alike(mine, other, inputs, bar):
    a, b = our_parameters(mine), peft_parameters(other)
    before = {key: p.detach().clone() for key, p in a.items()}
    mine.train(), other.train()
    options = {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-4 if bar else 1e-8}
    optimizers = [torch.optim.AdamW(parameters.values(), **options) for parameters in (a, b)]
    for step in range(3):
        logits = []
        for model, optimizer in zip((mine, other), optimizers, strict=True):
            torch.manual_seed(step)  # the same dropout masks
            out = model(**inputs)
            optimizer.zero_grad()
            out.loss.backward()
            logits.append(out.logits.detach())
        assert_same(*logits, bar, f"logits in step {step}")
        for key in a:
            assert_same(a[key].grad, b[key].grad, bar, f"gradient of {key} in step {step}")
        for optimizer in optimizers:
            optimizer.step()
        for key in a:
            assert_same(a[key], b[key], 10 * bar, f"{key} after step {step}")
    assert all(not torch.equal(a[key], before[key]) for key in a)


@pytest.mark.parametrize(
    ("name", "targets", "inputs"),
    [
        ("bert", ["key", "value", "output.dense"], ["output.dense"]),
        ("gpt2", ["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
        ("llama", ["k_proj", "v_proj", "down_proj"], ["down_proj"]),
        ("t5", ["k", "v", "wo"], ["wo"]),
    ],
)
def test_ia3_on_inputs_as_in_the_paper(name, targets, inputs, tmp_path):
    """What goes into the second layer of a feed-forward block is scaled; steps, files both ways, merging."""

    def fresh():
        config = peft.IA3Config(
            target_modules=targets,
            feedforward_modules=inputs,
            task_type="SEQ_CLS" if name == "bert" else None,
            modules_to_save=[*HEADS[name]] or None,
        )
        with quietly():
            return scale_inputs(ours("ia3", name, targets), inputs), peft.get_peft_model(build(name), config)

    mine, other = fresh()
    with torch.no_grad():
        assert torch.equal(mine(**batch(name)).logits, build(name)(**batch(name)).logits)
    randomise(our_parameters(mine)), randomise(peft_parameters(other))
    assert_train_alike(mine, other, batch(name), 0.0)
    expected = mine.eval()(**batch(name)).logits
    save_adapter(mine, tmp_path / "ours")
    with quietly():
        opened = peft.PeftModel.from_pretrained(build(name), tmp_path / "ours").eval()
        other.save_pretrained(tmp_path / "theirs")
    assert torch.equal(opened(**batch(name)).logits, expected)
    for folder in ("ours", "theirs"):
        again = load_adapter(build(name), tmp_path / folder)
        assert torch.equal(again(**batch(name)).logits, expected)
        load_adapter(fresh()[0], tmp_path / folder)
        with pytest.raises(ValueError, match="the model needs"):  # an optimizer may hold its factors for outputs
            load_adapter(ours("ia3", name, targets), tmp_path / folder)
    assert_close(merge(mine)(**batch(name)).logits, expected, rtol=1e-5, atol=1e-5)
    assert_close(unmerge(mine)(**batch(name)).logits, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="'nowhere' matches no .* there are "):
        scale_inputs(mine, ["nowhere"])
    with pytest.raises(ValueError, match="unmerge"):
        scale_inputs(merge(mine), inputs)


@pytest.mark.parametrize(("method", "name", "targets"), CASES)
def test_start(method, name, targets):
    """The same start as PEFT's, outputs still those of the base model, and nothing but adapters and heads trains."""
    base, mine, other = build(name), ours(method, name, targets), theirs(method, name, targets)
    bar, inputs = ORACLES[method].bar, batch(name)
    changed = method in ("pissa", "olora")
    with torch.no_grad():  # with gradients on, matmul picks another kernel for a frozen weight and rounds differently
        assert_close(mine(**inputs).logits, base(**inputs).logits, rtol=0, atol=5e-6 if changed else 0)
    mine(**inputs).loss.backward()
    heads = tuple(HEADS[name]) or ("-",)
    for key, p in mine.named_parameters():
        wanted = key.startswith(heads) or any(part in key for part in (".lora_", ".vera_", ".ia3_", ".hada_", ".lokr_"))
        assert p.requires_grad == (p.grad is not None) == wanted, key
    b = peft_parameters(other)
    for key, p in our_parameters(mine).items():
        not_drawn = method in ("vera", "olora", "ia3") or "magnitude" in key or not p.any()
        if not_drawn and not key.startswith(heads):
            assert_same(p, b[key], bar, f"start of {key}")
    modules = dict(other.base_model.model.named_modules())
    for key, layer in adapters(mine).items():
        assert_same(layer.weight, modules[key].base_layer.weight, bar, f"base weight of {key}")
        if method == "vera":
            assert torch.equal(layer.pair.A, modules[key].vera_A["default"])
            assert torch.equal(layer.pair.B, modules[key].vera_B["default"])
        if method == "pissa":  # the signs of singular vectors are anyone's: compare what they multiply to
            delta = modules[key].get_delta_weight("default")
            assert_same(layer.delta_weight(), delta.T if layer.kind == "conv1d" else delta, 2e-7, f"B A of {key}")


@pytest.mark.parametrize(("method", "name", "targets"), SECOND)
def test_our_file_opens_in_peft(method, name, targets, tmp_path):
    mine, _ = pair(method, name, targets)
    save_adapter(mine, tmp_path)
    with quietly():
        other = peft.PeftModel.from_pretrained(build(name), tmp_path).eval()
    again, saved_as = load_adapter(build(name), tmp_path), method
    bar, expected = ORACLES[method].bar, other(**batch(name)).logits
    if method in ("pissa", "olora"):  # written as a LoRA around the untouched base
        saved_as, bar = "lora", 5e-6
    assert_same(mine.eval()(**batch(name)).logits, expected, bar, "logits")
    assert_same(again(**batch(name)).logits, expected, ORACLES[saved_as].bar, "logits")
    assert {a.config.method for a in adapters(again).values()} == {saved_as}
    if saved_as == method:
        assert our_parameters(again).keys() == our_parameters(mine).keys()  # still trainable
        load_adapter(mine, tmp_path)


@pytest.mark.parametrize(("method", "name", "targets"), SECOND)
def test_peft_file_opens_in_ours(method, name, targets, tmp_path):
    _, other = pair(method, name, targets)
    with quietly():
        other.save_pretrained(tmp_path)
    if method in ("pissa", "olora"):
        with pytest.raises(ValueError, match=f"init_lora_weights = '{method}' changed the base weights"):
            load_adapter(build(name), tmp_path)
        return
    mine = load_adapter(build(name), tmp_path)
    assert_same(mine.eval()(**batch(name)).logits, other.eval()(**batch(name)).logits, ORACLES[method].bar, "logits")
    if method != "lora_fa":  # of which PEFT's file knows nothing
        assert our_parameters(mine).keys() == peft_parameters(other).keys()
        assert {a.config.method for a in adapters(mine).values()} == {method}


@pytest.mark.parametrize(("method", "name", "targets"), SECOND)
def test_merge_and_unmerge(method, name, targets):
    mine, other = pair(method, name, targets)
    inputs = batch(name)
    base = {key: adapter.weight.clone() for key, adapter in adapters(mine).items()}
    with torch.no_grad():
        before = mine(**inputs).logits
        merge(merge(mine))
        merged = mine(**inputs).logits
        assert not torch.equal(merged, before)  # W + BA is rounded once, the branch separately
        assert_close(merged, before, rtol=1e-5, atol=1e-5)
        if not EMBEDDINGS & {*targets}:  # PEFT's merge changes the tied output as well
            with quietly():
                assert_close(merged, other.merge_and_unload()(**inputs).logits, rtol=0, atol=5e-6)
        unmerge(unmerge(mine))
    for key, adapter in adapters(mine).items():
        assert_close(adapter.weight, base[key], rtol=2e-6, atol=1e-6)
    assert_close(mine(**inputs).logits, before, rtol=1e-5, atol=1e-5)


def test_merged_model_is_a_plain_transformers_model(tmp_path):
    """Tied embeddings: the adapted one gets its own weight, and save_pretrained writes both."""
    mine, _ = pair("lora", "llama", ["embed_tokens", "q_proj"])
    inputs = batch("llama")
    expected = mine(**inputs).logits
    eject(merge(mine))
    assert type(mine.model.embed_tokens) is torch.nn.Embedding
    mine.save_pretrained(tmp_path)
    again = type(mine).from_pretrained(tmp_path)
    assert_close(again(**inputs).logits, expected, rtol=1e-5, atol=1e-5)
