"""Adapter files that are missing, cut short, or meant for something else; saves that fail half-way."""

import json
import os

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_course import AdapterConfig, adapters, inject, load_adapter, merge, save_adapter
from lora_course.adapters import files
from tests.adapters.models import batch, build

CONFIG = AdapterConfig(rank=3, alpha=7, target_modules=["query"], trainable=["classifier"])


def trained(config=CONFIG):
    torch.manual_seed(5)
    model = inject(build("bert"), config)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p))
    return model


@pytest.fixture
def saved(tmp_path):
    return save_adapter(trained(), tmp_path / "adapter")


def edit_config(folder, **changes):
    path = folder / files.CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder, change):
    path = folder / files.WEIGHTS_FILE
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


FIRST = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight"

DAMAGE = {
    "no such folder": (lambda f: [p.unlink() for p in f.iterdir()], FileNotFoundError, "does not exist"),
    "no weights": (lambda f: (f / files.WEIGHTS_FILE).unlink(), FileNotFoundError, "config but no weights"),
    "cut short": (
        lambda f: (f / files.WEIGHTS_FILE).write_bytes((f / files.WEIGHTS_FILE).read_bytes()[:-9]),
        ValueError,
        "corrupt or cut short",
    ),
    "empty weights": (lambda f: (f / files.WEIGHTS_FILE).write_bytes(b""), ValueError, "corrupt or cut short"),
    "not JSON": (lambda f: (f / files.CONFIG_FILE).write_text("{"), ValueError, "not JSON"),
    "a list": (lambda f: (f / files.CONFIG_FILE).write_text("[]"), ValueError, "expected a JSON object"),
    "another method": (lambda f: edit_config(f, peft_type="BOFT"), ValueError, "'BOFT'"),
    "no rank": (lambda f: edit_config(f, r=None), ValueError, "not a usable adapter config"),
    "another rank": (lambda f: edit_config(f, r=5), ValueError, r"\(3, 24\), the model needs \(5, 24\)"),
    "two methods in one": (lambda f: edit_config(f, use_rslora=True, use_dora=True), ValueError, "use_dora = True"),
    "rank pattern": (
        lambda f: edit_config(f, rank_pattern={"query": 4}),
        ValueError,
        r"\(3, 24\), the model needs \(4, 24\)",
    ),
    "bias": (lambda f: edit_config(f, bias="all"), ValueError, "bias = 'all'"),
    "pattern of another type": (lambda f: edit_config(f, rank_pattern=[3]), ValueError, "not a usable adapter config"),
    "some layers": (lambda f: edit_config(f, layers_to_transform=[0]), ValueError, "layers_to_transform"),
    "PiSSA": (lambda f: edit_config(f, init_lora_weights="pissa"), ValueError, "changed the base"),
    "another model": (lambda f: edit_config(f, target_modules=["c_attn"]), ValueError, "'c_attn' matches no layer"),
    "missing tensor": (lambda f: edit_tensors(f, lambda t: t.pop(FIRST)), ValueError, "missing .*query.lora_A"),
    "extra tensor": (lambda f: edit_tensors(f, lambda t: t.update(x=t[FIRST].clone())), ValueError, "unexpected x"),
    "NaN": (lambda f: edit_tensors(f, lambda t: t[FIRST].fill_(float("nan"))), ValueError, "NaN"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_bad_file_is_named_and_the_model_stays_as_it_was(kind, saved):
    damage, error, words = DAMAGE[kind]
    damage(saved)
    model = build("bert")
    before = repr(model), [(n, p.requires_grad, p.clone()) for n, p in model.named_parameters()]
    with pytest.raises(error, match=words):
        load_adapter(model, saved)
    assert repr(model) == before[0]
    for (n, grad, value), (name, p) in zip(before[1], model.named_parameters(), strict=True):
        assert n == name and grad == p.requires_grad and torch.equal(value, p)


def test_round_trip_and_loading_into_an_injected_model(saved):
    expected = trained()(**batch("bert")).logits
    assert torch.equal(load_adapter(build("bert"), saved)(**batch("bert")).logits, expected)
    again = inject(build("bert"), CONFIG)
    assert torch.equal(load_adapter(again, saved)(**batch("bert")).logits, expected)


@pytest.mark.parametrize("change", [{"rank": 4}, {"alpha": 8}, {"target_modules": ["query", "key"]}])
def test_loading_into_a_model_with_other_settings(saved, change):
    from dataclasses import replace

    model = inject(build("bert"), replace(CONFIG, **change))
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(ValueError, match="was saved with .* this model has"):
        load_adapter(model, saved)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_a_regular_expression_from_peft(tmp_path):
    theirs = peft.get_peft_model(build("bert"), peft.LoraConfig(r=3, target_modules=r".*\.(query|key)"))
    theirs.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="stays frozen"):
        model = load_adapter(build("bert"), tmp_path)
    assert len(adapters(model)) == 4


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="no adapters"):
        save_adapter(build("bert"), tmp_path)
    with pytest.raises(ValueError, match="unmerge"):
        save_adapter(merge(trained()), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        save_adapter(trained(), tmp_path / "file")


@pytest.mark.parametrize("failing_write", [1, 2])
def test_a_failed_save_leaves_the_old_files(saved, monkeypatch, failing_write):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    real, calls = os.fsync, []

    def full_disk(descriptor):
        calls.append(descriptor)
        if len(calls) == failing_write:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_adapter(trained(AdapterConfig(rank=5, target_modules=["key"], trainable=["classifier"])), saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
