"""Planned bytes against measured ones, extrapolated plans against whole ones, and what papers say."""

import dataclasses
import importlib
import json

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from lora_course import AdapterConfig, cli
from lora_course.adapters import METHODS
from lora_course.memory import plan
from lora_course.memory.extrapolate import extended, numbers, on_lines, with_layers
from lora_course.memory.models import MODELS, known_config
from lora_course.memory.real import take_step
from lora_course.quantization import nf4

planning = importlib.import_module("lora_course.memory.plan")
Situation, plan_whole = planning.Situation, planning.plan_whole
BF16 = torch.bfloat16


REAL = [  # model, layers of it, adapter, how
    ("minilm", 6, None, {"sequence": 64}),
    ("minilm", 6, AdapterConfig(), {"batch": 4, "sequence": 40}),
    ("minilm", 3, AdapterConfig(dropout=0.1), {"batch": 2, "sequence": 50}),
    ("minilm", 3, AdapterConfig("dora", 4, target_modules=["query", "value"]), {}),
    ("minilm", 3, AdapterConfig("lora_fa"), {"optimizer": "lora_fa"}),
    ("minilm", 3, AdapterConfig("vera", 64), {}),
    ("minilm", 2, AdapterConfig(), {"dtype": BF16, "adapter_dtype": torch.float32, "sequence": 16}),
    ("minilm", 2, AdapterConfig("lora_fa"), {"dtype": BF16, "adapter_dtype": torch.float32, "sequence": 16}),
    ("minilm", 2, AdapterConfig("pissa"), {"dtype": BF16, "adapter_dtype": torch.float32, "sequence": 16}),
    ("gpt2", 2, None, {"optimizer": "sgd", "batch": 2}),
    ("gpt2", 3, AdapterConfig(target_modules=["c_attn"]), {"checkpointing": True}),
    ("gpt2", 2, AdapterConfig(), {"padded": False}),
    ("smollm2-135m", 4, AdapterConfig(rank=16), {"batch": 2, "sequence": 64}),
    ("smollm2-135m", 3, AdapterConfig(target_modules=["q_proj", "v_proj"]), {"checkpointing": True}),
    ("smollm2-135m", 2, None, {"sequence": 64}),
    ("smollm2-135m", 2, AdapterConfig(), {"optimizer": "lora_plus", "padded": False}),
]


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:the head:UserWarning")
@pytest.mark.parametrize(("name", "layers", "adapter", "how"), REAL)
def test_planned_is_measured(name, layers, adapter, how):
    """Byte for byte: it is the same code, on the same shapes."""
    planned, real = both(name, layers, adapter, how)
    assert planned.phase_peaks == real.phase_peaks
    assert (planned.parameters, planned.buffers) == (real.parameters, real.buffers)


def both(name, layers, adapter, how):
    """The step planned, and taken; what is the same over any base is held against each other."""
    config = with_layers(known_config(name), layers)
    planned, real = plan(config, adapter, **how), take_step(config, adapter, **how)
    for field in ("saved_by_module", "gradients", "optimizer_state"):
        assert getattr(planned, field) == getattr(real, field), field
    return planned, real


QUANTIZED = [
    ("minilm", 3, AdapterConfig(), {"quantization": "nf4-double", "sequence": 32}),
    ("minilm", 3, AdapterConfig("vera", 64, dropout=0.1), {"quantization": "nf4-double"}),
    ("minilm", 3, AdapterConfig("dora", 4, dropout=0.1), {"quantization": "int8"}),
    ("minilm", 2, AdapterConfig(), {"quantization": "int8", "dtype": BF16, "sequence": 16}),
    ("minilm", 2, AdapterConfig(), {"quantization": "nf4-double", "dtype": BF16, "adapter_dtype": torch.float32}),
    ("gpt2", 2, AdapterConfig(), {"quantization": "nf4-double", "padded": False}),
    ("smollm2-135m", 3, AdapterConfig("lora_fa"), {"quantization": "nf4-double", "checkpointing": True}),
    ("smollm2-135m", 2, AdapterConfig(rank=16), {"quantization": "nf4-double", "dtype": BF16, "sequence": 8}),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:the head:UserWarning")
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [2], indirect=True)
@pytest.mark.parametrize(("name", "layers", "adapter", "how"), QUANTIZED)
def test_planned_is_measured_over_a_quantized_base(name, layers, adapter, how):
    """But for the table of pairs of NF4, 2 KiB. With one thread a weight's indices would be on top."""
    planned, real = both(name, layers, adapter, how)
    assert planned.parameters + planned.buffers == real.parameters + real.buffers  # codes are buffers there
    table = 0 if how["quantization"] == "int8" else nf4.WORDS.nbytes
    assert {phase: peak + table for phase, peak in planned.phase_peaks.items()} == real.phase_peaks


def test_our_layers_have_no_single_quantization():
    with pytest.raises(ValueError, match="take 'nf4-double'"):
        take_step("minilm", AdapterConfig(), quantization="nf4")


@pytest.mark.filterwarnings("ignore:the head:UserWarning")
@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("dylora", "loftq")])  # it draws what it saves
def test_every_method_can_be_planned(method):
    config = with_layers(known_config("minilm"), 1)
    config.vocab_size = 200
    planned = plan(config, AdapterConfig(method, 4), sequence=20)
    real = take_step(config, AdapterConfig(method, 4), sequence=20)
    assert (planned.parameters, planned.saved, planned.peak) == (real.parameters, real.saved, real.peak)
    assert planned.buffers == real.buffers


def test_loftq_is_planned_as_the_quantized_base_that_it_makes():
    config = with_layers(known_config("minilm"), 1)
    config.vocab_size = 200
    planned = plan(config, AdapterConfig("loftq", 4), sequence=20)
    real = take_step(config, AdapterConfig("loftq", 4), sequence=20)
    assert planned.saved == real.saved
    assert planned.parameters + planned.buffers == real.parameters + real.buffers


SMALL = {"vocab_size": 300, "max_position_embeddings": 64}
LLAMA = LlamaConfig(hidden_size=64, intermediate_size=112, num_hidden_layers=11, num_attention_heads=4, **SMALL)
GPT2 = GPT2Config(vocab_size=300, n_positions=64, n_embd=48, n_layer=10, n_head=3)


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("adapter", [None, AdapterConfig(), AdapterConfig("dora", 4), AdapterConfig("vera", 16)])
@pytest.mark.parametrize(("checkpointing", "sequence"), [(False, 8), (True, 64)])
def test_few_layers_lead_to_all(config, adapter, checkpointing, sequence):
    how = {"sequence": sequence, "checkpointing": checkpointing, "batch": 2}
    assert numbers(plan(config, adapter, **how)) == numbers(plan_whole(config, adapter, Situation(**how)))


def test_what_is_on_no_line_is_run_in_full():
    """Few layers: backward peaks at its start, with the logits. Many: at its end, with the gradients of all. The line
    through few would lead astray.
    """
    config = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=14, num_attention_heads=2,
                         vocab_size=6000, max_position_embeddings=64)  # fmt: skip
    adapter, how = AdapterConfig(rank=16), Situation(sequence=4)
    few = [plan_whole(with_layers(config, n), adapter, how) for n in (2, 3, 4)]
    whole = plan_whole(config, adapter, how)
    assert not on_lines(few) and extended(few, 14).phase_peaks["backward"] < whole.phase_peaks["backward"]
    assert numbers(plan(config, adapter, sequence=4)) == numbers(whole)
    assert extended(few, 14).saved == whole.saved  # which is a line always
    straight = [plan_whole(with_layers(LLAMA, n), AdapterConfig(), Situation(2, 64)) for n in (2, 3, 4)]
    assert on_lines(straight)
    assert not on_lines([*straight[:2], dataclasses.replace(straight[2], gradients=straight[2].gradients + 4)])


def test_gpt3_as_in_the_lora_paper():
    """Rank 4 on query and value, 96 x 2 layers of 12 288: 18.9 million. (GPT-2 has query, key and value in one layer of
    three times the width, which comes to the same.) All that there is, over that: 9 285.
    """
    planned = plan("gpt3-175b", AdapterConfig(rank=4, target_modules=["c_attn"]), dtype=torch.float16)
    assert planned.trained_numbers == 96 * 2 * 4 * (12288 + 12288) == 18_874_368
    assert round(planned.all_numbers / planned.trained_numbers) == 9285
    assert planned.parameters == 2 * planned.all_numbers
    assert planned.optimizer_state == pytest.approx(2 * planned.gradients, rel=1e-3)


def test_a_65_billion_model_on_48_gb():
    """QLoRA: 4 bits with double quantization, rank 64 everywhere, 512 tokens, checkpointing."""
    adapter = AdapterConfig(rank=64, alpha=16)
    how = {"dtype": BF16, "adapter_dtype": torch.float32, "sequence": 512, "checkpointing": True}
    quantized = plan("llama-65b", adapter, quantization="nf4-double", **how)
    assert quantized.peak < 48e9 < plan("llama-65b", adapter, **how).peak
    layers = 80 * (4 * 8192 * 8192 + 3 * 8192 * 22016)
    rest = 2 * (2 * 32000 * 8192 + 161 * 8192) + 4 * quantized.trained_numbers
    assert quantized.parameters == pytest.approx(layers * 4.127 / 8 + rest, rel=1e-4)
    single = plan("llama-65b", adapter, quantization="nf4", **how)
    assert single.parameters - quantized.parameters == pytest.approx(layers * (4.5 - 4.127) / 8, rel=1e-3)


def test_peak_of_a_quantized_model_by_hand():
    how = {"sequence": 8, "dtype": BF16}
    plain, quantized = plan(LLAMA, AdapterConfig(), **how), plan(LLAMA, AdapterConfig(), quantization="nf4", **how)
    linear = 11 * (4 * 64 * 64 + 3 * 64 * 112)
    saving = linear * (16 - 4.5) / 8
    assert plain.parameters - quantized.parameters == saving
    assert plain.phase_peaks["optimizer step"] - quantized.phase_peaks["optimizer step"] == saving
    unpacked = 64 * 112 * (2 + 4)  # one weight at a time, in bfloat16 and on the way there in float32
    assert saving - unpacked <= plain.phase_peaks["forward"] - quantized.phase_peaks["forward"] < saving
    assert (plain.saved, plain.gradients) == (quantized.saved, quantized.gradients)


PARAMETERS = {  # millions, as the models' own cards and papers give them
    "minilm": 22.7, "bert-base": 109.5, "bert-large": 335.1, "gpt2": 124.4, "gpt2-medium": 354.8, "gpt2-large": 774.0,
    "gpt2-xl": 1557.6, "smollm2-135m": 134.5, "llama-3.2-1b": 1235.8, "llama-3.2-3b": 3212.7, "llama-2-7b": 6738.4,
    "llama-2-13b": 13015.9, "llama-2-70b": 68976.6, "llama-3-8b": 8030.3, "llama-3-70b": 70553.7, "llama-65b": 65285.7,
    "mistral-7b": 7241.7, "gpt3-175b": 175221.8,
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_shipped_configs_have_the_size_that_they_are_known_for(name):
    with torch.device("meta"):
        model = planning._build(known_config(name), Situation())
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("model", "adapter", "how", "words"),
    [
        ("llama-9", None, {}, "no config for 'llama-9'.*there are minilm, bert-base"),
        ("gpt2", None, {"quantization": "nf4"}, "a quantized weight has no gradient"),
        ("gpt2", AdapterConfig(), {"quantization": "int3"}, "unknown quantization 'int3'; there are nf4, nf4-double"),
        ("gpt2", AdapterConfig(), {"optimizer": "adam"}, "unknown optimizer 'adam'; there are adamw"),
        ("gpt2", None, {"sequence": 1025}, "a sequence of 1025, but the model has 1024 positions"),
        ("gpt2", None, {"batch": 0}, "need a batch of 1 or more"),
        ("gpt2", AdapterConfig(target_modules=["query"]), {}, "'query' matches no layer"),
        ("gpt2", AdapterConfig("lorra"), {}, "unknown method 'lorra'"),
    ],
)
def test_what_makes_no_sense(model, adapter, how, words):
    with pytest.raises(ValueError, match=words):
        plan(model, adapter, **how)


def test_command_line(capsys, tmp_path):
    file = tmp_path / "plan.json"
    line = f"plan --model minilm --rank 4 --targets query value --sequence 32 --batch 2 --json {file}"
    assert cli.main(line.split()) == 0
    planned = plan("minilm", AdapterConfig(rank=4, target_modules=["query", "value"]), sequence=32, batch=2)
    out, err = capsys.readouterr()
    assert out == f"{planned}\n" and err == ""
    found = json.loads(file.read_text())
    assert found["peak"] == planned.peak and found["saved"] == planned.saved
    assert found["arguments"]["targets"] == ["query", "value"] and found["trained_numbers"] == planned.trained_numbers
    assert cli.main(["plan", "--model", "minilm", "--method", "full"]) == 0
    assert "100 %" in capsys.readouterr().out
    assert cli.main(["plan", "--model", "gpt5"]) == 2
    assert "no config for 'gpt5'" in capsys.readouterr().err
    assert cli.main([*line.split()[:-1], str(tmp_path / "nowhere" / "plan.json")]) == 1
