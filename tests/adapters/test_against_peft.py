"""Our LoRA against PEFT's on the same weights and inputs: outputs, gradients, three AdamW steps, and files.

PEFT is the oracle here and nowhere in our layers. The operations are the same in the same order, so on one machine
they agree bit for bit; the bar is 1e-6 in float32.
"""

import warnings

import peft
import pytest
import torch
from torch.testing import assert_close

from lora_course import (
    AdapterConfig,
    adapters,
    eject,
    inject,
    load_adapter,
    merge,
    save_adapter,
    unmerge,
)
from tests.adapters.models import CASES, HEADS, batch, build

RANK, ALPHA = 3, 7
BAR = {"rtol": 0.0, "atol": 1e-6}


def ours(name, targets, dropout=0.0):
    return inject(
        build(name),
        AdapterConfig(rank=RANK, alpha=ALPHA, target_modules=targets, dropout=dropout, trainable=HEADS[name]),
    )


def theirs(name, targets, dropout=0.0):
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=targets,
        lora_dropout=dropout,
        task_type="SEQ_CLS" if name == "bert" else None,
        modules_to_save=[*HEADS[name]] or None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tied embeddings, fan_in_fan_out
        return peft.get_peft_model(build(name), config)


def peft_parameters(model):
    """PEFT's trainable parameters under our names."""
    found = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            name = name.removeprefix("base_model.model.").replace(".default", "").replace(".modules_to_save", "")
            name = name.replace("lora_embedding_", "lora_").replace("lora_A.weight", "lora_A")
            found[name.replace("lora_B.weight", "lora_B")] = p
    return found


def our_parameters(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def randomise(parameters, seed=2):
    """Random values for A and B both, since B = 0 would hide every mistake in the branch."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in sorted(parameters):
            parameters[name].copy_(torch.randn(parameters[name].shape, generator=g) * 0.3)


def pair(name, targets, dropout=0.0):
    mine, other = ours(name, targets, dropout), theirs(name, targets, dropout)
    assert our_parameters(mine).keys() == peft_parameters(other).keys()
    randomise(our_parameters(mine))
    randomise(peft_parameters(other))
    return mine, other


@pytest.mark.parametrize(("name", "targets"), CASES)
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_outputs_gradients_and_three_steps(name, targets, dropout):
    mine, other = pair(name, targets, dropout)
    inputs = batch(name)
    mine.train(), other.train()
    optimizers = [
        torch.optim.AdamW(parameters.values(), lr=1e-2, weight_decay=0.1)
        for parameters in (our_parameters(mine), peft_parameters(other))
    ]
    for step in range(3):
        results = []
        for model, optimizer in zip((mine, other), optimizers, strict=True):
            torch.manual_seed(step)  # the same dropout masks
            out = model(**inputs)
            optimizer.zero_grad()
            out.loss.backward()
            results.append(out)
        assert_close(results[0].logits, results[1].logits, **BAR)
        a, b = our_parameters(mine), peft_parameters(other)
        for key in a:
            assert_close(a[key].grad, b[key].grad, **BAR, msg=lambda m, key=key: f"gradient of {key}: {m}")
        for optimizer in optimizers:
            optimizer.step()
    assert any(
        not torch.equal(before, after)
        for before, after in zip(
            our_parameters(ours(name, targets)).values(), our_parameters(mine).values(), strict=True
        )
    )
    for key in a:
        assert_close(a[key], b[key], **BAR, msg=lambda m, key=key: f"{key} after 3 steps: {m}")


@pytest.mark.parametrize(("name", "targets"), CASES)
def test_identity_at_init_and_nothing_else_trains(name, targets):
    base = build(name)
    inputs = batch(name)
    model = ours(name, targets)
    with torch.no_grad():  # with gradients on, matmul picks another kernel for a frozen weight and rounds differently
        assert torch.equal(model(**inputs).logits, base(**inputs).logits)
    model(**inputs).loss.backward()
    for key, p in model.named_parameters():
        trainable = ".lora_" in key or key.startswith(tuple(HEADS[name]) or ("-",))
        assert p.requires_grad == trainable, key
        assert (p.grad is not None) == trainable, key


@pytest.mark.parametrize(("name", "targets"), CASES)
def test_our_file_opens_in_peft(name, targets, tmp_path):
    mine, _ = pair(name, targets)
    save_adapter(mine, tmp_path)
    other = peft.PeftModel.from_pretrained(build(name), tmp_path).eval()
    assert torch.equal(mine.eval()(**batch(name)).logits, other(**batch(name)).logits)


@pytest.mark.parametrize(("name", "targets"), CASES)
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`", "ignore:Could not find a config file")
def test_peft_file_opens_in_ours(name, targets, tmp_path):
    _, other = pair(name, targets)
    other.save_pretrained(tmp_path)
    mine = load_adapter(build(name), tmp_path)
    assert torch.equal(mine.eval()(**batch(name)).logits, other.eval()(**batch(name)).logits)
    assert our_parameters(mine).keys() == peft_parameters(other).keys()  # still trainable


@pytest.mark.parametrize(("name", "targets"), CASES)
def test_merge_and_unmerge(name, targets):
    mine, other = pair(name, targets)
    inputs = batch(name)
    base = {key: adapter.weight.clone() for key, adapter in adapters(mine).items()}
    with torch.no_grad():
        before = mine(**inputs).logits
        merge(merge(mine))
        merged = mine(**inputs).logits
        assert not torch.equal(merged, before)  # W + BA is rounded once, the branch separately
        assert_close(merged, before, rtol=1e-5, atol=1e-5)
        if "wte" not in targets and "embed_tokens" not in targets:  # PEFT's merge changes the tied output as well
            assert_close(merged, other.merge_and_unload()(**inputs).logits, **BAR)
        unmerge(unmerge(mine))
    for key, adapter in adapters(mine).items():
        assert_close(adapter.weight, base[key], **BAR)
    assert_close(mine(**inputs).logits, before, rtol=1e-5, atol=1e-5)


def test_merged_model_is_a_plain_transformers_model(tmp_path):
    """Tied embeddings: the adapted one gets its own weight, and save_pretrained writes both."""
    mine, _ = pair("llama", ["embed_tokens", "q_proj"])
    inputs = batch("llama")
    expected = mine(**inputs).logits
    eject(merge(mine))
    assert type(mine.model.embed_tokens) is torch.nn.Embedding
    mine.save_pretrained(tmp_path)
    again = type(mine).from_pretrained(tmp_path)
    assert_close(again(**inputs).logits, expected, rtol=1e-5, atol=1e-5)
