"""Injection: what is found, what is frozen, and what is refused with which words."""

import copy
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from lora_course import AdapterConfig, adapters, eject, inject, make_optimizer, merge, parameter_report, unmerge
from lora_course.adapters import LoRA
from tests.adapters.models import BUILDERS, HEADS, batch, build


def config(**changes):
    return AdapterConfig(**{"rank": 2, "alpha": 6, "target_modules": ["query"], "trainable": ["classifier"]} | changes)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"rank": 0}, ValueError, "rank must be at least 1, got 0"),
        ({"rank": -3}, ValueError, "at least 1"),
        ({"rank": 2.0}, TypeError, "whole number"),
        ({"rank": True}, TypeError, "whole number"),
        ({"alpha": 0}, ValueError, "alpha must be positive"),
        ({"alpha": float("nan")}, ValueError, "alpha must be positive and finite"),
        ({"alpha": "16"}, TypeError, "alpha must be a number"),
        ({"dropout": 1.0}, ValueError, r"\[0, 1\)"),
        ({"dropout": -0.1}, ValueError, r"\[0, 1\)"),
        ({"target_modules": "query"}, ValueError, r"did you mean \['query'\]"),
        ({"target_modules": []}, ValueError, "target_modules is empty"),
        ({"target_modules": [3]}, TypeError, "non-empty strings"),
        ({"trainable": "classifier"}, TypeError, r"did you mean \['classifier'\]"),
    ],
)
def test_bad_settings(changes, error, words):
    with pytest.raises(error, match=words):
        config(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target_modules": ["qeury"]}, r"'qeury' matches no layer .*did you mean 'query'.*query \(Linear, 2\)"),
        ({"target_modules": ["query", "c_attn"]}, "'c_attn' matches no layer"),
        ({"target_modules": ["uery"]}, "'uery' matches no layer"),
        ({"target_modules": ["LayerNorm"]}, "LayerNorm.*only Linear, Conv1D and Embedding"),
        ({"target_modules": ["attention"]}, "is a BertAttention"),
        ({"trainable": ["clasifier"]}, "'clasifier' matches no module.*did you mean 'classifier'"),
        ({"method": "lorra"}, "unknown method 'lorra'.*did you mean 'lora'"),
    ],
)
def test_refusals_leave_the_model_untouched(changes, words):
    model = build("bert")
    before = repr(model), [(n, p.requires_grad) for n, p in model.named_parameters()]
    with pytest.raises(ValueError, match=words):
        inject(model, config(**changes))
    assert (repr(model), [(n, p.requires_grad) for n, p in model.named_parameters()]) == before


def test_double_injection_is_refused_and_eject_allows_another():
    model = build("bert")
    expected = model(**batch("bert")).logits
    inject(model, config())
    with pytest.raises(ValueError, match="already has adapters.*eject"):
        inject(model, config())
    eject(model)
    assert not adapters(model) and torch.equal(model(**batch("bert")).logits, expected)
    inject(model, config(rank=4))


def test_all_linear_leaves_out_outputs_and_heads():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {name: set(adapters(inject(build(name), AdapterConfig(trainable=HEADS[name])))) for name in BUILDERS}
    assert "classifier" not in found["bert"] and "bert.pooler.dense" in found["bert"] and len(found["bert"]) == 13
    assert len(found["gpt2"]) == 8 and all("transformer.h" in n for n in found["gpt2"])
    assert len(found["llama"]) == 14 and "lm_head" not in found["llama"]
    assert "lm_head" not in found["t5"] and "decoder.block.0.layer.1.EncDecAttention.q" in found["t5"]


def test_a_target_inside_a_trained_module_is_not_wrapped():
    model = inject(build("bert"), config(target_modules=["dense"], trainable=["classifier", "pooler"]))
    assert "bert.pooler.dense" not in adapters(model) and len(adapters(model)) == 6
    assert all(p.requires_grad for p in model.bert.pooler.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_an_adapter_is_in_the_mode_of_its_base(training):
    model = inject(build("bert").train(training), config(dropout=0.5))
    assert all(module.training == training for adapter in adapters(model).values() for module in adapter.modules())


def test_a_frozen_head_is_named():
    with pytest.warns(UserWarning, match=r"head 'classifier' stays frozen.*trainable=\['classifier'\]"):
        inject(build("bert"), config(trainable=[]))


def test_a_head_tied_to_a_frozen_weight_is_refused():
    with pytest.raises(ValueError, match="lm_head.*shares its weight with 'model.embed_tokens.weight'"):
        inject(build("llama"), config(target_modules=["q_proj"], trainable=["lm_head"]))
    both = inject(build("llama"), config(target_modules=["q_proj"], trainable=["lm_head", "embed_tokens"]))
    assert both.lm_head.weight.requires_grad


def test_layers_that_attention_reads_without_calling_are_refused():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.out = nn.MultiheadAttention(8, 2), nn.Linear(8, 8)

    with pytest.raises(ValueError, match="inside an nn.MultiheadAttention.*split_attention"):
        inject(Block(), config(target_modules=["out_proj"], trainable=[]))
    with pytest.raises(ValueError, match="'q_proj' matches no layer.*split_attention"):
        inject(Block(), config(target_modules=["q_proj"], trainable=[]))
    assert set(adapters(inject(Block(), config(target_modules="all-linear", trainable=[])))) == {"out"}


def test_a_layer_with_two_names_gets_one_adapter():
    model = nn.Module()
    model.a = model.b = nn.Linear(4, 3)
    inject(model, config(target_modules=["a"], trainable=[]))
    assert isinstance(model.a, LoRA) and (model.b is model.a.base_layer)
    model = nn.Module()
    model.a = model.b = nn.Linear(4, 3)
    inject(model, config(target_modules="all-linear", trainable=[]))
    assert model.a is model.b


def test_tied_output_keeps_its_weight_through_merge():
    model = inject(build("llama"), config(target_modules=["embed_tokens"], trainable=[]))
    output = model.lm_head.weight.clone()
    for adapter in adapters(model).values():
        nn.init.normal_(adapter.lora_A)
    expected = model(**batch("llama")).logits
    merge(model)
    assert torch.equal(model.lm_head.weight, output) and not model.config.tie_word_embeddings
    torch.testing.assert_close(model(**batch("llama")).logits, expected, rtol=1e-5, atol=1e-5)
    unmerge(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight and model.config.tie_word_embeddings


def test_merge_refuses_nan_before_it_touches_anything():
    model = inject(build("bert"), config())
    last = [*adapters(model).values()][-1]
    with torch.no_grad():
        last.lora_B[0, 0] = float("nan")
    weights = [a.weight.clone() for a in adapters(model).values()]
    with pytest.raises(ValueError, match="refusing to merge.*layer.1.*NaN"):
        merge(model)
    assert all(torch.equal(a.weight, w) for a, w in zip(adapters(model).values(), weights, strict=True))
    with pytest.raises(ValueError, match="no adapters"):
        merge(build("bert"))


def test_parameter_report_counts_each_weight_once():
    model = inject(build("llama"), config(rank=3, target_modules=["q_proj"], trainable=["norm"]))
    report = parameter_report(model)
    assert report.trainable == 2 * 3 * (24 + 24) + 24
    assert report.total == sum(p.numel() for p in model.parameters())
    assert report.bytes == 4 * report.total
    assert report.percent == pytest.approx(100 * report.trainable / report.total)
    assert {row.part: row.trainable for row in report.rows} == {"adapters": 288, "trained whole": 24, "frozen base": 0}
    assert "288" in str(report) and "<td>288</td>" in report._repr_html_()


def test_the_seed_decides_every_adapter():
    """The order in which layers draw their A must not depend on where objects lie in memory."""
    states = []
    for _ in range(3):
        model, keep = build("bert"), [object() for _ in range(len(states) * 1000)]
        torch.manual_seed(7)
        states.append(inject(model, config(target_modules="all-linear")).state_dict())
        del keep
    assert all(torch.equal(states[0][key], state[key]) for state in states for key in state)


def test_injected_model_pickles_and_deepcopies():
    model = inject(build("bert"), config())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(**batch("bert")).logits, model(**batch("bert")).logits)
        assert adapters(twin).keys() == adapters(model).keys()


def test_make_optimizer():
    model = inject(build("bert"), config())
    optimizer = make_optimizer(model, lr=1e-3, weight_decay=0.1)
    grouped = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert grouped == {id(p): 0.1 if p.ndim > 1 else 0.0 for p in model.parameters() if p.requires_grad}
    with pytest.raises(ValueError, match="lr must be positive"):
        make_optimizer(model, lr=0)
    with pytest.raises(ValueError, match="unknown optimizer"):
        make_optimizer(model, lr=1e-3, method="sgd")
    with pytest.raises(ValueError, match="no parameter is trainable"):
        make_optimizer(model.requires_grad_(False), lr=1e-3)


def test_import_is_light():
    heavy = ("transformers", "datasets", "peft", "matplotlib")
    code = f"import sys, lora_course; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
