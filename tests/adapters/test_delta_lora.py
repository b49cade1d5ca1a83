"""Delta-LoRA against its own recurrence and against the LoRA that its sum telescopes into; stopping and going on."""

import copy
import pickle

import peft
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from lora_course import AdapterConfig, adapters, eject, inject, make_optimizer, merge, save_adapter, unmerge
from lora_course.adapters import LoRA
from lora_course.adapters.base import weight_view
from lora_course.adapters.delta_lora import DeltaLoRA, DeltaUpdate
from lora_course.adapters.oracles import ORACLES
from tests.adapters.models import HEADS, batch, build

IN, OUT, RANK, ALPHA = 13, 9, 3, 5
SCALE = ALPHA / RANK
LAM, LR = 0.375, 3e-2  # lam is exact in float32
CONFIG = AdapterConfig(method="delta_lora", rank=RANK, alpha=ALPHA, target_modules=["0", "2"])


def make(kind="linear", dtype=torch.float64, seed=0, config=CONFIG):
    torch.manual_seed(seed)
    layer = (lambda n, m: nn.Linear(n, m)) if kind == "linear" else (lambda n, m: Conv1D(m, n))
    return inject(nn.Sequential(layer(IN, OUT), nn.Tanh(), layer(OUT, IN)).to(dtype), config)


def data(step, dtype=torch.float64):
    g = torch.Generator().manual_seed(100 + step)
    return torch.randn(6, IN, generator=g, dtype=dtype), torch.randn(6, IN, generator=g, dtype=dtype)


def train(model, optimizer, steps):
    for step in steps:
        x, y = data(step, next(model.parameters()).dtype)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


def setup(start=0, lam=LAM, kind="linear", dtype=torch.float64, optimizer=torch.optim.AdamW):
    model = make(kind, dtype)
    optimizer = optimizer([p for p in model.parameters() if p.requires_grad], lr=LR)
    return model, optimizer, DeltaUpdate(model, optimizer, lam, start)


def paper(start, kind, optimizer, steps):
    """The paper's recurrence as it stands there: LoRA, and after each step W += lam s (B'A' - BA), in place."""
    model = make(kind, config=AdapterConfig(rank=RANK, alpha=ALPHA, target_modules=["0", "2"]))
    optimizer = optimizer([p for p in model.parameters() if p.requires_grad], lr=LR)
    for step in range(steps):
        old = [a.lora_B.detach() @ a.lora_A.detach() for a in adapters(model).values()]
        train(model, optimizer, [step])
        if step >= start:
            for before, a in zip(old, adapters(model).values(), strict=True):
                weight_view(a.base_layer).add_(a.lora_B.detach() @ a.lora_A.detach() - before, alpha=LAM * SCALE)
    return model


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_equals_the_recurrence_of_the_paper(kind, start, optimizer):
    """A, B and W after 8 steps in float64; two layers, so that the gradient reaches the first through a moved W."""
    model, own, _ = setup(start, kind=kind, optimizer=optimizer)
    base = [weight_view(a.base_layer).clone() for a in adapters(model).values()]
    train(model, own, range(8))
    reference = paper(start, kind, optimizer, 8)
    for W, mine, other in zip(base, adapters(model).values(), adapters(reference).values(), strict=True):
        close = {"rtol": 0, "atol": ORACLES["delta_lora"].bar}
        assert ORACLES["delta_lora"].dtype == str(mine.lora_A.dtype).removeprefix("torch.")
        assert_close(mine.lora_A, other.lora_A, **close), assert_close(mine.lora_B, other.lora_B, **close)
        assert_close(W + mine.drift(), weight_view(other.base_layer), **close)
        assert torch.equal(weight_view(mine.base_layer), W) and mine.drift().abs().max() > 1e-5
        A, B = mine.as_lora()
        assert A.shape == (2 * RANK, mine.in_features) and B.shape == (mine.out_features, 2 * RANK)
        assert_close(SCALE * B @ A, mine.drift() + SCALE * mine.lora_B @ mine.lora_A, **close)
        assert_close(mine.delta_weight(), SCALE * B @ A, **close)
    x, _ = data(99)
    assert_close(model(x), reference(x), **close)


def test_w_stays_before_step_k():
    model, optimizer, update = setup(start=2)
    for step in range(4):
        assert update.begun == (LAM if step > 2 else 0) and update.steps == step
        train(model, optimizer, [step])
        assert all(a.drift().any() == (step >= 2) for a in adapters(model).values())


def test_from_step_0_it_is_lora_with_another_alpha():
    """The same A and B in a LoRA of alpha' = (1 + lam) alpha on the untouched base give the same outputs."""
    model, optimizer, _ = setup()
    train(model, optimizer, range(8))
    twin = make(config=AdapterConfig(rank=RANK, alpha=(1 + LAM) * ALPHA, target_modules=["0", "2"]))
    for mine, other in zip(adapters(model).values(), adapters(twin).values(), strict=True):
        other.lora_A.data, other.lora_B.data = mine.lora_A.data, mine.lora_B.data
    x, _ = data(99)
    assert_close(model(x), twin(x), rtol=0, atol=1e-13)
    plain = make(config=AdapterConfig(rank=RANK, alpha=ALPHA, target_modules=["0", "2"]))
    assert not torch.allclose(model(x), plain(x), atol=1e-2)


def test_it_trains_otherwise_than_lora_with_another_alpha():
    """The outputs are the same function of A and B; the gradients are 1 + lam times smaller, which SGD notices."""
    model, optimizer, _ = setup(optimizer=torch.optim.SGD)
    twin = make(config=AdapterConfig(rank=RANK, alpha=(1 + LAM) * ALPHA, target_modules=["0", "2"]))
    x, y = data(0)
    for m in (model, twin):
        (m(x) - y).square().mean().backward()
    for mine, other in zip(adapters(model).values(), adapters(twin).values(), strict=True):
        assert_close((1 + LAM) * mine.lora_B.grad, other.lora_B.grad, rtol=1e-12, atol=0)


def state(model):
    return {n: t.clone() for n, t in model.state_dict().items()}


@pytest.mark.parametrize("start", [0, 2, 4])
@pytest.mark.parametrize("keep", ["adapters and update", "whole model"])
def test_a_killed_run_goes_on_bit_for_bit(start, keep, tmp_path):
    model, optimizer, _ = setup(start, dtype=torch.float32)
    train(model, optimizer, range(7))
    expected = state(model)

    model, optimizer, update = setup(start, dtype=torch.float32)
    train(model, optimizer, range(3))
    own = {n: t for n, t in model.state_dict().items() if n.endswith(("lora_A", "lora_B"))}
    saved = {"optimizer": optimizer.state_dict()}
    if keep == "whole model":
        saved["model"] = model.state_dict()
    else:
        saved |= {"model": own, "update": update.state_dict()}
    torch.save(saved, tmp_path / "run.pt")
    saved = torch.load(tmp_path / "run.pt", weights_only=True)

    model, optimizer, update = setup(start, dtype=torch.float32)
    model.load_state_dict(saved["model"], strict=keep == "whole model")
    optimizer.load_state_dict(saved["optimizer"])
    if keep != "whole model":
        update.load_state_dict(saved["update"])
    train(model, optimizer, range(3, 7))
    assert all(torch.equal(t, expected[n]) for n, t in model.state_dict().items())


def test_with_the_trainer_and_its_checkpoints(tmp_path):
    from transformers import Trainer, TrainingArguments

    rows = [{k: v[i] for k, v in batch("bert", seed).items()} for seed in range(4) for i in range(3)]
    config = AdapterConfig(method="delta_lora", target_modules=["query"], trainable=["classifier"])

    def run(steps, resume=None):
        torch.manual_seed(3)
        model = inject(build("bert"), config)
        optimizer = make_optimizer(model, lr=1e-2)
        update = DeltaUpdate(model, optimizer, LAM, start=1)
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=steps,
            per_device_train_batch_size=2,
            save_steps=2,
            report_to=[],
            disable_tqdm=True,
            lr_scheduler_type="constant",
            use_cpu=True,
            seed=0,
        )
        Trainer(model, arguments, train_dataset=rows, optimizers=(optimizer, None)).train(resume_from_checkpoint=resume)
        update.remove()
        return model

    whole = run(4)
    for adapter in adapters(whole).values():
        assert int(adapter.steps) == 4 and adapter.drift().abs().max() > 1e-5
    again = run(4, resume=str(tmp_path / "checkpoint-2"))
    for name, t in again.state_dict().items():
        assert torch.equal(t, whole.state_dict()[name]), name


def test_with_our_loop_and_its_checkpoints(tmp_path):
    from lora_course.training.config import TrainingConfig
    from lora_course.training.loop import fit

    rows = [{k: v[i] for k, v in batch("bert", seed).items()} for seed in range(4) for i in range(3)]
    config = AdapterConfig(method="delta_lora", target_modules=["query"], trainable=["classifier"])

    def collate(examples):
        return {key: torch.stack([example[key] for example in examples]) for key in examples[0]}

    def run(path=None, stop=None):
        torch.manual_seed(3)
        model = inject(build("bert"), config)
        optimizer = make_optimizer(model, lr=1e-2)
        update = DeltaUpdate(model, optimizer, LAM, start=1)
        training = TrainingConfig(epochs=1, batch_size=3, learning_rate=1e-2, seed=0)
        callbacks = [lambda row: "stop" if row.step == stop else None]
        fit(
            model,
            rows,
            collate,
            training,
            optimizer=optimizer,
            checkpoint_path=path,
            callbacks=callbacks,
            progress=False,
        )
        return model, update

    whole, _ = run()
    run(tmp_path / "run.pt", stop=2)
    again, update = run(tmp_path / "run.pt")
    assert update.steps == 4 and update.begun == LAM
    for name, t in again.state_dict().items():
        assert torch.equal(t, whole.state_dict()[name]), name


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_without_an_update_it_is_lora(name):
    targets = {"bert": ["query", "word_embeddings"], "gpt2": ["c_attn", "wte"]}[name]
    settings = {"rank": RANK, "alpha": ALPHA, "target_modules": targets, "trainable": HEADS[name]}
    delta, lora = (inject(build(name), AdapterConfig(method=m, **settings)) for m in ("delta_lora", "lora"))
    for mine, other in zip(adapters(delta).values(), adapters(lora).values(), strict=True):
        nn.init.normal_(mine.lora_A), nn.init.normal_(mine.lora_B)
        other.load_state_dict(mine.state_dict(), strict=False)
        assert not mine.drift().any() and torch.equal(mine.delta_weight(), other.delta_weight())
        trainable = sum(p.numel() for p in mine.parameters() if p.requires_grad)
        assert trainable == RANK * (mine.in_features + mine.out_features)
    assert torch.equal(delta(**batch(name)).logits, lora(**batch(name)).logits)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_embeddings_follow_and_what_is_tied_to_them_stays(name):
    """W_0 itself is never written, so an output layer that shares it does not move along."""
    targets = {"bert": ["word_embeddings"], "gpt2": ["wte"]}[name]
    model = inject(
        build(name), AdapterConfig(method="delta_lora", rank=RANK, target_modules=targets, trainable=HEADS[name])
    )
    optimizer = make_optimizer(model, lr=1e-2)
    DeltaUpdate(model, optimizer)
    base = build(name).state_dict()
    for _ in range(3):
        model(**batch(name)).loss.backward()
        optimizer.step()
    (adapter,) = adapters(model).values()
    assert adapter.drift().abs().max() > 1e-3
    assert any(torch.equal(adapter.weight, t) for t in base.values())
    expected = model(**batch(name)).logits
    assert_close(merge(model)(**batch(name)).logits, expected, rtol=1e-5, atol=1e-5)


def test_half_precision_follows_to_the_rounding_of_a_and_b():
    """A bfloat16 W, to which small updates were added step by step, would round each of them to its own last place."""
    model, optimizer, _ = setup(dtype=torch.bfloat16)
    train(model, optimizer, range(3))
    for a in adapters(model).values():
        moved = (a.lora_B.double() @ a.lora_A.double() - a.start_B.double() @ a.start_A.double()).detach()
        moved *= LAM * SCALE
        assert_close(a.drift().double(), moved, rtol=2**-6, atol=2**-8 * float(moved.abs().max()))
        assert a.drift().dtype == torch.bfloat16


def test_merge_and_eject():
    model, optimizer, _ = setup()
    train(model, optimizer, range(3))
    x, _ = data(99)
    expected, base = model(x), [a.weight.clone() for a in adapters(model).values()]
    merge(model)
    assert_close(model(x), expected, rtol=0, atol=1e-13)
    unmerge(model)
    for adapter, weight in zip(adapters(model).values(), base, strict=True):
        assert_close(adapter.weight, weight, rtol=0, atol=1e-15)
    assert_close(eject(merge(model))(x), expected, rtol=0, atol=1e-13)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("start", [0, 2])
def test_the_plain_lora_it_amounts_to(start, tmp_path):
    """What PEFT can read: rank r if K = 0, for B_0 A_0 = 0 leaves nothing to take back; rank 2 r else."""
    model, optimizer, _ = setup(start, dtype=torch.float32)
    train(model, optimizer, range(5))
    x, _ = data(99, torch.float32)
    expected = model(x)
    plain = copy.deepcopy(model)
    for name, layer in adapters(model).items():
        plain.set_submodule(name, layer.plain_lora())
    ranks = {a.config.rank for a in adapters(plain).values()}
    assert ranks == {2 * RANK if start else RANK} and all(type(a) is LoRA for a in adapters(plain).values())
    assert_close(plain(x), expected, rtol=0, atol=2e-6)
    save_adapter(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(eject(make(dtype=torch.float32)), tmp_path)
    assert torch.equal(theirs(x), plain(x)) and torch.equal(model(x), expected)


def test_a_removed_update_counts_no_more_and_another_may_follow():
    model, optimizer, update = setup(start=1)
    train(model, optimizer, range(1))
    update.remove()
    train(model, optimizer, range(1, 4))
    assert update.steps == 1 and not update.begun
    again = DeltaUpdate(model, optimizer, LAM, start=0)  # late, but it begins
    train(model, optimizer, range(4, 5))
    assert again.begun == LAM
    again.remove()
    with pytest.raises(ValueError, match="lam=0.375 already"):
        DeltaUpdate(model, optimizer, 0.2)


def test_what_the_layer_refuses():
    with pytest.raises(ValueError, match="no dropout, got 0.1"):
        DeltaLoRA(nn.Linear(3, 2), AdapterConfig(method="delta_lora", dropout=0.1))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lam": 0.0}, "lam must be positive"),
        ({"lam": -1.0}, "lam must be positive"),
        ({"lam": float("nan")}, "lam must be positive and finite"),
        ({"start": -1}, "0 or more, got -1"),
        ({"start": 2.0}, "0 or more, got 2.0"),
    ],
)
def test_what_the_update_refuses(settings, words):
    model = make()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with pytest.raises(ValueError, match=words):
        DeltaUpdate(model, optimizer, **settings)
    DeltaUpdate(model, optimizer)
    with pytest.raises(ValueError, match="count every step twice"):
        DeltaUpdate(model, optimizer)


def test_an_update_needs_its_adapters_and_a_weight_of_its_own():
    model = make()
    foreign = torch.optim.SGD(make().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="does not train the adapter at '0'"):
        DeltaUpdate(model, foreign)
    with pytest.raises(ValueError, match="no Delta-LoRA layer"):
        DeltaUpdate(make(config=AdapterConfig(target_modules=["0"])), foreign)


def test_a_state_of_another_model_is_refused_before_anything_changes():
    model, _, update = setup()
    before = state(model)
    other = copy.deepcopy(update.state_dict())
    other["0"]["start_A"] += 1
    del other["2"]["lam"]
    with pytest.raises(ValueError, match=r"2.lam is absent in it, \(\) in the model"):
        update.load_state_dict(other)
    other["2"] = {"lam": torch.zeros(()), "start_A": torch.zeros(4, OUT)}
    with pytest.raises(ValueError, match=r"2.start_A is \(4, 9\) in it, \(3, 9\) in the model"):
        update.load_state_dict(other)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_pickle_deepcopy_checkpointing_and_compile():
    model, optimizer, _ = setup(dtype=torch.float32)
    train(model, optimizer, range(3))
    x, _ = data(99, torch.float32)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))
        for mine, other in zip(adapters(model).values(), adapters(twin).values(), strict=True):
            assert torch.equal(mine.drift(), other.drift()) and other.drift().any()
    parameters = [p for p in model.parameters() if p.requires_grad]
    plain = torch.autograd.grad(model(x).square().sum(), parameters)
    again = torch.autograd.grad(checkpoint(model, x, use_reentrant=False).square().sum(), parameters)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert_close(compiled(x), model(x), rtol=0, atol=1e-6)
    train(compiled, optimizer, range(3, 4))  # W moves under the compiled code too
    assert_close(compiled(x), model(x), rtol=0, atol=1e-6)
