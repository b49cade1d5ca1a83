"""Files of adapters whose rank changes: each opens in PEFT with the same outputs, and comes back."""

import json

import peft
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lora_course import AdapterConfig, adapters, inject, load_adapter, make_optimizer, save_adapter
from lora_course.adapters import DeltaLoRA, DyLoRA, LoRA
from lora_course.adapters.delta_lora import DeltaUpdate
from lora_course.adapters.dylora import set_rank
from lora_course.adapters.rank_allocator import RankAllocator
from lora_course.adapters.resize import resize_rank
from tests.adapters.models import HEADS, batch, build

TARGETS = {"bert": ["query", "output.dense"], "gpt2": ["c_attn", "mlp.c_proj"], "llama": ["q_proj"], "t5": ["q", "wo"]}
pytestmark = pytest.mark.filterwarnings(
    "ignore:The following rank_pattern keys:RuntimeWarning:peft"
)  # AdaLoRA's are masks
BAR = {"rtol": 0.0, "atol": 2e-6}


def adapted(method, name, rank=4, seed=0):
    model = inject(
        build(name),
        AdapterConfig(method=method, rank=rank, alpha=7, target_modules=TARGETS[name], trainable=HEADS[name]),
    )
    torch.manual_seed(seed)
    for p in model.parameters():
        if p.requires_grad:
            nn.init.normal_(p, std=0.2)
    return model


def train(model, optimizer, name, steps):
    for step in range(steps):
        optimizer.zero_grad()
        model(**batch(name, seed=step)).loss.backward()
        optimizer.step()


def opened(model, name, folder):
    """What PEFT makes of our file, and what we make of it."""
    save_adapter(model, folder)
    theirs = peft.PeftModel.from_pretrained(build(name), folder).eval()
    return theirs, load_adapter(build(name), folder)


@pytest.mark.parametrize("method", ["lora", "rslora"])
@pytest.mark.parametrize("name", TARGETS)
def test_a_rank_and_alpha_for_each_layer(name, method, tmp_path):
    model = adapted(method, name)
    optimizer = make_optimizer(model, lr=1e-2)
    layers = [*adapters(model).values()]
    for rank, layer in zip((2, 6, 3), layers, strict=False):
        resize_rank(layer, rank, optimizer)
    theirs, ours = opened(model, name, tmp_path)
    expected = model(**batch(name)).logits
    assert torch.equal(theirs(**batch(name)).logits, expected)
    assert torch.equal(ours(**batch(name)).logits, expected)
    assert [a.config for a in adapters(ours).values()] == [a.config for a in layers]
    theirs.save_pretrained(tmp_path / "theirs")
    assert torch.equal(load_adapter(build(name), tmp_path / "theirs")(**batch(name)).logits, expected)
    load_adapter(model, tmp_path)  # into a model of the same ranks
    with pytest.raises(ValueError, match="was saved with .* this model has"):
        load_adapter(adapted(method, name), tmp_path)


def test_patterns_that_peft_users_write(tmp_path):
    config = peft.LoraConfig(
        r=3,
        lora_alpha=7,
        target_modules=["query", "key"],
        rank_pattern={"key": 5},
        alpha_pattern={r"0\..*\.query": 2},
    )
    theirs = peft.get_peft_model(build("bert"), config).eval()
    for key, p in theirs.named_parameters():
        if "lora_" in key:
            nn.init.normal_(p, std=0.3)
    theirs.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="stays frozen"):
        ours = load_adapter(build("bert"), tmp_path)
    assert torch.equal(ours(**batch("bert")).logits, theirs(**batch("bert")).logits)
    settings = {key.split(".")[3] + key[-3:]: (a.config.rank, a.config.alpha) for key, a in adapters(ours).items()}
    assert settings == {"0ery": (3, 2), "0key": (5, 7), "1ery": (3, 7), "1key": (5, 7)}


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("steps", [0, 12])
def test_adalora(name, steps, tmp_path):
    model = adapted("adalora", name)
    optimizer = make_optimizer(model, lr=1e-2)
    RankAllocator(model, optimizer, target_rank=2, total_steps=12, warmup=1, final=2)
    train(model, optimizer, name, steps)
    expected = model.eval()(**batch(name)).logits
    theirs, ours = opened(model, name, tmp_path)
    assert_close(theirs(**batch(name)).logits, expected, **BAR)  # fewer rows: another matmul kernel
    assert torch.equal(ours(**batch(name)).logits, expected)
    for mine, other in zip(adapters(model).values(), adapters(ours).values(), strict=True):
        assert torch.equal(mine.kept, other.kept) and mine.kept.all() == (steps == 0)
    theirs.save_pretrained(tmp_path / "theirs")
    assert_close(load_adapter(build(name), tmp_path / "theirs")(**batch(name)).logits, expected, **BAR)
    load_adapter(adapted("adalora", name, seed=5), tmp_path)
    optimizer = make_optimizer(ours, lr=1e-2)  # it can be trained on
    RankAllocator(ours, optimizer, target_rank=1, total_steps=6)
    train(ours, optimizer, name, 6)


def test_adalora_trained_by_peft(tmp_path):
    config = peft.AdaLoraConfig(
        init_r=4,
        target_r=2,
        total_step=6,
        target_modules=["query"],
        task_type="SEQ_CLS",
        modules_to_save=["classifier"],
    )
    theirs = peft.get_peft_model(build("bert"), config)
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=1e-2)
    for step in range(6):
        optimizer.zero_grad()
        theirs(**batch("bert", seed=step)).loss.backward()
        optimizer.step()
        theirs.base_model.update_and_allocate(step)
    theirs.save_pretrained(tmp_path)
    ours = load_adapter(build("bert"), tmp_path)
    assert_close(ours(**batch("bert")).logits, theirs.eval()(**batch("bert")).logits, **BAR)
    assert any(not a.kept.all() for a in adapters(ours).values())


def test_a_mask_that_does_not_fit_leaves_the_model_alone(tmp_path):
    save_adapter(adapted("adalora", "bert"), tmp_path)
    path = tmp_path / "adapter_config.json"
    settings = json.loads(path.read_text())
    name = next(iter(adapters(adapted("adalora", "bert"))))
    for mask, words in (([True] * 3, "has 3 entries for a rank of 4"), ([False] + [True] * 3, "the model needs")):
        path.write_text(json.dumps(settings | {"rank_pattern": {f"{name}.lora_E": mask}}))
        for model in (build("bert"), adapted("adalora", "bert", seed=1)):
            before = repr(model), {n: t.clone() for n, t in model.state_dict().items()}
            with pytest.raises(ValueError, match=words):
                load_adapter(model, tmp_path)
            assert repr(model) == before[0]
            assert all(torch.equal(t, before[1][n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("start", [0, 2])
def test_delta_lora_is_saved_as_the_lora_it_amounts_to(name, start, tmp_path):
    torch.manual_seed(0)
    model = inject(
        build(name),
        AdapterConfig(method="delta_lora", rank=4, alpha=7, target_modules=TARGETS[name], trainable=HEADS[name]),
    )
    optimizer = make_optimizer(model, lr=1e-2)
    DeltaUpdate(model, optimizer, lam=0.5, start=start)
    train(model, optimizer, name, 5)
    expected = model(**batch(name)).logits
    theirs, ours = opened(model, name, tmp_path)
    assert theirs.peft_config["default"].r == (8 if start else 4)
    assert_close(theirs(**batch(name)).logits, expected, **BAR)
    assert torch.equal(ours(**batch(name)).logits, theirs(**batch(name)).logits)
    assert all(type(a) is LoRA for a in adapters(ours).values())
    assert all(type(a) is DeltaLoRA for a in adapters(model).values())
    assert torch.equal(model(**batch(name)).logits, expected)


@pytest.mark.parametrize("name", TARGETS)
def test_dylora_is_saved_at_the_rank_of_evaluation(name, tmp_path):
    model = set_rank(adapted("dylora", name), 3)
    theirs, ours = opened(model, name, tmp_path)
    assert theirs.peft_config["default"].r == 3
    assert_close(theirs(**batch(name)).logits, model(**batch(name)).logits, **BAR)
    assert torch.equal(ours(**batch(name)).logits, theirs(**batch(name)).logits)
    assert all(type(a) is DyLoRA for a in adapters(model).values())
