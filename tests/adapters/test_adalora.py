"""AdaLoRA against PEFT's: forward and gradients bit for bit, masks step by step over whole schedules."""

import copy
import pickle
import warnings

import peft
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from lora_course import AdapterConfig, adapters, eject, inject, make_optimizer, merge, parameter_report, unmerge
from lora_course.adapters.adalora import AdaLoRA
from lora_course.adapters.oracles import ORACLES
from lora_course.adapters.rank_allocator import (
    AVERAGES,
    RankAllocator,
    cubic_budget,
    keep_most_important,
    orthogonality_penalty,
)
from tests.adapters.models import HEADS, batch, build

RANK, ALPHA, TARGET = 4, 7, 2
TASKS = {"bert": "SEQ_CLS", "gpt2": "CAUSAL_LM", "llama": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM"}
TARGETS = {
    "bert": [["query", "output.dense"]],
    "gpt2": [["c_attn"], "all-linear"],
    "llama": [["q_proj", "down_proj"]],
    "t5": [["q", "wo"]],
}
CASES = [(name, targets) for name in ORACLES["adalora"].models for targets in TARGETS[name]]


def ours(name, targets, dropout=0.0):
    return inject(
        build(name),
        AdapterConfig(
            method="adalora", rank=RANK, alpha=ALPHA, target_modules=targets, dropout=dropout, trainable=HEADS[name]
        ),
    )


def theirs(name, targets, dropout=0.0, **schedule):
    config = getattr(peft, ORACLES["adalora"].peft)(
        init_r=RANK,
        lora_alpha=ALPHA,
        target_r=TARGET,
        target_modules=targets,
        lora_dropout=dropout,
        task_type=TASKS[name],  # without one PEFT goes past AdaLoraModel.forward, which adds the penalty
        modules_to_save=[*HEADS[name]] or None,
        **{"total_step": 10, "orth_reg_weight": 0.0} | schedule,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fan_in_fan_out
        return peft.get_peft_model(build(name), config)


def our_parameters(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def peft_parameters(model):
    found = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            name = name.removeprefix("base_model.model.").replace(".default", "").replace(".modules_to_save", "")
            found[name] = p
    return found


def pair(name, targets, dropout=0.0, random=True, **schedule):
    mine, other = ours(name, targets, dropout), theirs(name, targets, dropout, **schedule)
    a, b = our_parameters(mine), peft_parameters(other)
    assert a.keys() == b.keys()
    torch.manual_seed(2)
    with torch.no_grad():
        for key in sorted(a):
            if random or not key.endswith("lora_E"):
                a[key].normal_(std=0.3)
            b[key].copy_(a[key])
    return mine, other


@pytest.mark.parametrize(("name", "targets"), CASES)
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_outputs_gradients_and_merge_equal_pefts(name, targets, dropout):
    mine, other = pair(name, targets, dropout)
    outputs = []
    for model in (mine.train(), other.train()):
        torch.manual_seed(0)
        outputs.append(model(**batch(name)))
        outputs[-1].loss.backward()
    bar = {"rtol": 0, "atol": ORACLES["adalora"].bar}
    assert_close(outputs[0].logits, outputs[1].logits, **bar)
    theirs_now = peft_parameters(other)
    for key, p in our_parameters(mine).items():
        assert_close(p.grad, theirs_now[key].grad, **bar, msg=lambda text, k=key: f"{k}: {text}")
    expected = mine.eval()(**batch(name)).logits
    base = [a.weight.clone() for a in adapters(mine).values()]
    with torch.no_grad():
        assert_close(merge(mine)(**batch(name)).logits, expected, rtol=1e-5, atol=1e-5)
        theirs_merged = other.eval().merge_and_unload()
        assert_close(mine(**batch(name)).logits, theirs_merged(**batch(name)).logits, rtol=0, atol=1e-6)
    for adapter, weight in zip(adapters(unmerge(mine)).values(), base, strict=True):
        assert_close(adapter.weight, weight, rtol=0, atol=1e-6)
    assert_close(eject(merge(mine))(**batch(name)).logits, expected, rtol=1e-5, atol=1e-5)


SCHEDULES = [
    {"tinit": 0, "tfinal": 0, "deltaT": 1},
    {"tinit": 3, "tfinal": 4, "deltaT": 1},
    {"tinit": 2, "tfinal": 3, "deltaT": 3, "beta1": 0.5, "beta2": 0.9},
]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("penalty", [0.0, 0.5])
@pytest.mark.parametrize(("name", "targets"), [("bert", ["query", "output.dense"]), ("gpt2", ["c_attn"])])
def test_masks_over_a_whole_schedule_equal_pefts(name, targets, penalty, schedule):
    total = 14
    mine, other = pair(name, targets, random=False, total_step=total, orth_reg_weight=penalty, **schedule)
    optimizers = [torch.optim.AdamW(ps.values(), lr=1e-2) for ps in (our_parameters(mine), peft_parameters(other))]
    allocator = RankAllocator(
        mine,
        optimizers[0],
        TARGET,
        total,
        warmup=schedule["tinit"],
        final=schedule["tfinal"],
        every=schedule["deltaT"],
        beta1=schedule.get("beta1", 0.85),
        beta2=schedule.get("beta2", 0.85),
        orthogonality=penalty,
    )
    a, b, layers, masks = our_parameters(mine), peft_parameters(other), adapters(mine), set()
    for step in range(total):
        for model, optimizer in zip((mine.train(), other.train()), optimizers, strict=True):
            optimizer.zero_grad()
            model(**batch(name, seed=step % 3)).loss.backward()
            optimizer.step()
        other.base_model.update_and_allocate(step)
        pattern = other.peft_config["default"].rank_pattern or {}
        for key, layer in layers.items():
            expected = pattern.get(f"{key}.lora_E.default", [True] * RANK)
            assert layer.kept.tolist() == expected, (step, key)
            masks.add((key, tuple(expected)))
        for key, p in a.items():
            q = b[key]
            if penalty:  # one graph adds up the gradients of A A^T in another order
                assert_close(p, q, rtol=1e-3, atol=1e-5, msg=lambda m, k=key, s=step: f"{k}, step {s}: {m}")
            else:
                assert torch.equal(p, q), (key, step)
        assert torch.equal(
            torch.stack([(layer.lora_E != 0).sum() for layer in layers.values()]),
            torch.stack([(e != 0).sum() for k, e in b.items() if "lora_E" in k]),
        )
    assert len(masks) > 2 * len(layers)  # they moved
    assert sum(allocator.ranks().values()) == TARGET * len(layers) or not schedule["tfinal"]
    assert allocator.step == total


def test_penalty_equals_pefts():
    mine, other = pair("bert", ["query", "output.dense"], orth_reg_weight=0.5)
    task = mine(**batch("bert")).loss
    with_penalty = other(**batch("bert")).loss
    assert_close(task + 0.5 * orthogonality_penalty(adapters(mine).values()), with_penalty, rtol=0, atol=1e-6)
    layer = AdaLoRA(nn.Linear(3, 3), AdapterConfig(method="adalora", rank=2))
    with torch.no_grad():
        layer.lora_A.copy_(torch.tensor([[2.0, 0, 0], [0, 1, 0]])), layer.lora_B.copy_(torch.eye(3)[:, :2])
    assert orthogonality_penalty([layer]).item() == pytest.approx(3 / 2)  # (|4 - 1| + 0) / 2


def test_cubic_budget():
    assert [cubic_budget(s, 100, 20, 2, 12) for s in (0, 2, 12, 99)] == [100, 100, 20, 20]
    assert cubic_budget(7, 100, 20, 2, 12) == 20 + 80 // 8
    falling = [cubic_budget(s, 48, 12, 5, 40) for s in range(50)]
    assert falling == sorted(falling, reverse=True)


def test_keeping_the_most_important():
    scores = {"a": torch.tensor([5.0, 1, 4]), "b": torch.tensor([3.0, 2])}
    assert {k: v.tolist() for k, v in keep_most_important(scores, 3).items()} == {
        "a": [True, False, True],
        "b": [True, False],
    }
    assert all(v.all() for v in keep_most_important(scores, 5).values())
    tied = keep_most_important({"a": torch.tensor([1.0, 1, 2])}, 2)["a"]
    assert tied.tolist() == [False, False, True]


def setup(total=12, **settings):
    torch.manual_seed(3)
    model = ours("bert", ["query", "output.dense"])
    optimizer = make_optimizer(model, lr=1e-2)
    return model, optimizer, RankAllocator(model, optimizer, TARGET, total, **{"warmup": 2, "final": 3} | settings)


def train(model, optimizer, steps):
    model.train()
    for step in steps:
        optimizer.zero_grad()
        model(**batch("bert", seed=step)).loss.backward()
        optimizer.step()


@pytest.mark.parametrize("stop", [1, 6, 10])
def test_a_killed_run_goes_on_bit_for_bit(stop, tmp_path):
    model, optimizer, _ = setup()
    train(model, optimizer, range(12))
    expected = model.state_dict()
    model, optimizer, _ = setup()
    train(model, optimizer, range(stop))
    torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "run.pt")
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    model, optimizer, _ = setup()
    model.load_state_dict(saved[0]), optimizer.load_state_dict(saved[1])
    train(model, optimizer, range(stop, 12))
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_averages_leave_the_optimizer_after_the_last_masking():
    model, optimizer, allocator = setup()
    train(model, optimizer, range(8))
    held = [s for s in optimizer.state.values() if "importance" in s]
    assert len(held) == 3 * len(adapters(model))
    train(model, optimizer, range(8, 12))
    assert not any(key in s for s in optimizer.state.values() for key in AVERAGES)
    assert sum(allocator.ranks().values()) == TARGET * len(adapters(model))
    train(model, optimizer, range(12, 14))  # longer than planned: the ranks stay
    for layer in adapters(model).values():
        assert torch.equal(layer.lora_E.view(-1) != 0, layer.kept)
        assert torch.linalg.matrix_rank(layer.delta_weight()) == int(layer.kept.sum())


def test_what_a_file_holds():
    model, optimizer, _ = setup()
    train(model, optimizer, range(12))
    twin = ours("bert", ["query", "output.dense"])
    for mine, other in zip(adapters(model).values(), adapters(twin).values(), strict=True):
        tensors = mine.file_tensors()
        kept = int(mine.kept.sum())
        shapes = {"lora_A": (kept, mine.in_features), "lora_E": (kept, 1), "lora_B": (mine.out_features, kept)}
        assert {key: tuple(t.shape) for key, t in tensors.items()} == shapes
        other.kept.copy_(mine.kept)
        other.load_file_tensors(tensors)
        assert torch.equal(other.delta_weight(), mine.delta_weight()) and other.lora_A.any(dim=1).all()


def test_with_the_trainer(tmp_path):
    from transformers import Trainer, TrainingArguments

    rows = [{k: v[i] for k, v in batch("bert", seed).items()} for seed in range(3) for i in range(3)]
    model, optimizer, allocator = setup(total=6, warmup=1, final=1)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=6,
        per_device_train_batch_size=3,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    Trainer(model, arguments, train_dataset=rows, optimizers=(optimizer, None)).train()
    assert allocator.step == 6 and sum(allocator.ranks().values()) == TARGET * len(adapters(model))


def test_the_penalty_pulls_towards_orthogonality():
    distance = {}
    for weight in (0.0, 0.5):
        model, optimizer, _ = setup(orthogonality=weight)
        train(model, optimizer, range(10))
        distance[weight] = orthogonality_penalty(adapters(model).values()).item()
    assert distance[0.5] < 0.9 * distance[0.0]


def test_removed_allocator_masks_no_more():
    model, optimizer, allocator = setup()
    train(model, optimizer, range(2))
    allocator.remove()
    train(model, optimizer, range(2, 8))
    assert allocator.step == 2 and set(allocator.ranks().values()) == {RANK}
    RankAllocator(model, optimizer, TARGET, 12)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_rank": RANK}, "below the first rank, 4; got 4"),
        ({"target_rank": 0}, "at least 1"),
        ({"warmup": 8}, "leave no step of 10"),
        ({"final": 10}, "leave no step of 10"),
        ({"every": 0}, "every=0 is below 1"),
        ({"warmup": -1}, "warmup=-1"),
        ({"beta1": 1.0}, "beta1, beta2 in"),
        ({"beta2": 0.0}, "beta1, beta2 in"),
        ({"orthogonality": -0.1}, "orthogonality >= 0"),
    ],
)
def test_schedules_that_make_no_sense(settings, words):
    model = ours("bert", ["query"])
    optimizer = make_optimizer(model, lr=1e-3)
    with pytest.raises(ValueError, match=words):
        RankAllocator(model, optimizer, **{"target_rank": 2, "total_steps": 10, "final": 2} | settings)
    RankAllocator(model, optimizer, 2, 10)
    with pytest.raises(ValueError, match="RankAllocator already"):
        RankAllocator(model, optimizer, 2, 10)


def test_an_allocator_needs_its_adapters():
    model = ours("bert", ["query"])
    with pytest.raises(ValueError, match="does not train the adapter at 'bert"):
        RankAllocator(model, make_optimizer(ours("bert", ["query"]), lr=1e-3), 2, 10)
    lora = inject(build("bert"), AdapterConfig(target_modules=["query"], trainable=["classifier"]))
    with pytest.raises(ValueError, match="no AdaLoRA layer"):
        RankAllocator(lora, make_optimizer(lora, lr=1e-3), 2, 10)
    with pytest.raises(ValueError, match="not for an embedding"):
        AdaLoRA(nn.Embedding(4, 3), AdapterConfig(method="adalora"))


def test_identity_at_init_counts_and_gradients():
    base, model = build("bert"), ours("bert", ["query", "output.dense"])
    with torch.no_grad():
        assert torch.equal(model(**batch("bert")).logits, base(**batch("bert")).logits)
    count = sum(RANK * (a.in_features + a.out_features + 1) for a in adapters(model).values())
    assert parameter_report(model).rows[0].trainable == count
    model(**batch("bert")).loss.backward()
    for key, p in model.named_parameters():
        wanted = ".lora_" in key or key.startswith("classifier")
        assert p.requires_grad == (p.grad is not None) == wanted, key


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_the_layer_alone(kind):
    torch.manual_seed(0)
    base = nn.Linear(13, 9) if kind == "linear" else Conv1D(9, 13)
    layer = AdaLoRA(base, AdapterConfig(method="adalora", rank=3, alpha=5)).double()
    for p in (layer.lora_A, layer.lora_E, layer.lora_B):
        nn.init.normal_(p)
    x = torch.randn(4, 6, 13, dtype=torch.float64)
    W = layer.weight if kind == "linear" else layer.weight.T
    expected = x @ W.T + layer.bias + 5 / (3 + 1e-5) * x @ (layer.lora_A * layer.lora_E).T @ layer.lora_B.T
    assert_close(layer(x), expected, rtol=0, atol=1e-12)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x)) and torch.equal(twin.kept, layer.kept)
    parameters = [layer.lora_A, layer.lora_E, layer.lora_B]
    plain = torch.autograd.grad(layer(x).square().sum(), parameters)
    again = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).square().sum(), parameters)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert_close(compiled(x), layer(x), rtol=0, atol=1e-12)
    half = AdaLoRA(nn.Linear(13, 9).bfloat16(), AdapterConfig(method="adalora"))
    assert half(x.bfloat16()).dtype == torch.bfloat16 and half.lora_E.dtype == torch.bfloat16
    assert half.delta_weight().dtype == torch.float32
