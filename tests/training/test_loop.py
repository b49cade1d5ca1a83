"""The loop against one written by hand, its accumulation, schedule, early stopping, errors and callbacks."""

import math

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from lora_course import make_optimizer, merge
from lora_course.training.batching import length_bucketed_batches
from lora_course.training.config import TrainingConfig, warmup_then_decay
from lora_course.training.history import History
from lora_course.training.loop import TrainingDiverged, backward, fit
from lora_course.training.losses import model_loss, r_drop
from tests.training import tiny


def config(**changes):
    return TrainingConfig(**{"epochs": 2, "batch_size": 8, "learning_rate": 5e-3, "seed": 3} | changes)


def run(model, settings, data=None, **options):
    return fit(model, tiny.data() if data is None else data, tiny.collate, settings, **{"progress": False} | options)


def test_equals_a_loop_written_by_hand():
    settings, examples = config(max_grad_norm=0.05), tiny.data()
    model, twin = tiny.model(), tiny.model()
    history = run(model, settings, examples)

    optimizer = make_optimizer(twin, lr=5e-3, weight_decay=0.01)
    scheduler = get_linear_schedule_with_warmup(optimizer, round(0.1 * 16), 16)
    lengths = [len(e["input_ids"]) for e in examples]
    rows = []
    for epoch in range(2):
        for indices in length_bucketed_batches(lengths, 8, seed=3, epoch=epoch):
            loss = twin.train()(**tiny.collate([examples[i] for i in indices])).loss
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_([p for p in twin.parameters() if p.requires_grad], 0.05)
            rows.append((loss.item(), norm.item(), scheduler.get_last_lr()[0]))
            optimizer.step(), scheduler.step(), optimizer.zero_grad()
    assert [(row.loss, row.grad_norm) for row in history.steps] == [(loss, norm) for loss, norm, _ in rows]
    assert [row.lr for row in history.steps] == pytest.approx([lr for *_, lr in rows], rel=1e-12)
    assert all(
        torch.equal(a, b) for a, b in zip(tiny.trained(model).values(), tiny.trained(twin).values(), strict=True)
    )
    assert history.summary.steps == 16 and history.summary.samples == 120


def test_it_learns_and_only_what_it_may():
    model = tiny.model()
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    before = tiny.trained(model)
    history = run(model, config(epochs=12))
    assert sum(r.loss for r in history.steps[-8:]) < 0.5 * sum(r.loss for r in history.steps[:8])
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if not p.requires_grad)
    assert all(not torch.equal(p, before[n]) for n, p in tiny.trained(model).items())


@pytest.mark.parametrize("sizes", [[8, 8], [8, 3], [5, 5, 1]])
def test_accumulation_gives_the_big_batch_gradient(sizes):
    model, examples = tiny.model().double(), tiny.data(sum(sizes))
    pieces, start = [], 0
    for size in sizes:
        pieces.append(tiny.collate(examples[start : start + size]))
        start += size
    loss = backward(model, pieces, torch.device("cpu"))
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    whole = model(**tiny.collate(examples)).loss
    whole.backward()
    assert_close(loss, whole.detach(), rtol=0, atol=1e-12)
    for n, p in model.named_parameters():
        if p.requires_grad:
            assert_close(grads[n], p.grad, rtol=0, atol=1e-12)


def test_accumulation_of_a_causal_lm_counts_predicted_tokens():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=30, n_embd=8, n_layer=1, n_head=2, n_positions=16, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
        )
    ).double()
    examples = [{"input_ids": ids, "labels": ids} for ids in ([1, 2, 3], [4, 5, 6, 7, 8, 9], [3, 1])]
    backward(model, [tiny.collate(examples[:2]), tiny.collate(examples[2:])], torch.device("cpu"))
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(**tiny.collate(examples)).loss.backward()
    for a, p in zip(grads, model.parameters(), strict=True):
        assert_close(a, p.grad, rtol=0, atol=1e-12)


def test_a_batch_without_targets_changes_nothing():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()
    some = tiny.collate([{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}])
    none = tiny.collate([{"input_ids": [4, 5], "labels": [-100, -100]}])
    cpu = torch.device("cpu")
    assert torch.equal(backward(model, [some, none], cpu), model(**some).loss.detach())
    assert all(p.grad.isfinite().all() for p in model.parameters())
    with pytest.raises(ValueError, match="every label is -100"):
        backward(model, [none], cpu)


def test_left_over_gradients_are_no_part_of_the_run():
    clean, used = tiny.model(), tiny.model()
    used(**tiny.collate(tiny.data(8))).loss.backward()
    run(clean, config(epochs=1)), run(used, config(epochs=1))
    assert all(torch.equal(p, tiny.trained(clean)[n]) for n, p in tiny.trained(used).items())


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [
        ("linear", get_linear_schedule_with_warmup),
        ("cosine", get_cosine_schedule_with_warmup),
        ("constant", lambda optimizer, warmup, total: get_constant_schedule_with_warmup(optimizer, warmup)),
    ],
)
@pytest.mark.parametrize(("total", "warmup"), [(20, 5), (7, 0), (9, 8)])
def test_schedules_are_those_of_transformers(kind, theirs, total, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = theirs(optimizer, warmup, total)
    for step in range(total):
        assert warmup_then_decay(step, total, warmup, kind) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step(), scheduler.step()


def test_early_stopping_puts_the_best_back():
    model, scores, states = tiny.model(), iter([0.5, 0.7, 0.6, 0.65, 0.9]), []

    def evaluate(m):
        assert not m.training
        states.append(tiny.trained(m))
        return {"accuracy": next(scores)}

    history = run(model, config(epochs=5, patience=2), evaluate=evaluate)
    assert history.summary.stop_reason == "early stopping" and history.summary.best_step == 16
    assert [row.step for row in history.evaluations] == [8, 16, 24, 32]
    assert all(torch.equal(p, states[1][n]) for n, p in tiny.trained(model).items())


def test_loss_is_better_when_lower_and_nan_is_never_best():
    scores = iter([0.5, 0.4, float("nan"), 0.6])
    history = run(tiny.model(), config(epochs=4, patience=3), evaluate=lambda m: {"loss": next(scores)}, monitor="loss")
    assert history.summary.best_step == 16


def test_evaluations_are_evenly_spaced():
    history = run(tiny.model(), config(evaluations_per_epoch=3), evaluate=lambda m: {"accuracy": 0.0})
    assert [row.step for row in history.evaluations] == [3, 6, 8, 11, 14, 16]


def test_divergence_takes_no_step(tmp_path):
    model = tiny.model()
    seen = []

    def poison(row):
        seen.append(tiny.trained(model))
        if row.step == 5:
            with torch.no_grad():
                model.classifier.bias.fill_(float("inf"))
            seen.append(tiny.trained(model))

    with pytest.raises(TrainingDiverged, match=r"step 6: the loss is (nan|inf).*learning rate.*Try a lower") as caught:
        run(model, config(), callbacks=[poison], checkpoint_path=tmp_path / "run.pt")
    assert len(caught.value.history.steps) == 5
    assert all(torch.equal(p, seen[-1][n]) for n, p in tiny.trained(model).items())


def test_a_callback_stops_cleanly():
    history = run(tiny.model(), config(), callbacks=[lambda row: "stop" if row.step == 4 else None])
    assert history.summary.stop_reason == "callback" and len(history.steps) == 4


def test_a_callback_that_asks_gets_every_evaluation():
    class Asks:
        def __init__(self):
            self.rows = []

        def __call__(self, row):
            return None

        def evaluated(self, row):
            self.rows.append(row)

    asks = Asks()
    history = run(tiny.model(), config(), evaluate=lambda model: {"accuracy": 0.5}, callbacks=[asks, lambda row: None])
    assert asks.rows == history.evaluations and len(asks.rows) == 2


def test_silence(capfd):
    run(tiny.model(), config())
    assert capfd.readouterr() == ("", "")
    run(tiny.model(), config(epochs=1), progress=True)
    assert "8/8" in capfd.readouterr().err


def test_history_round_trip(tmp_path):
    history = run(tiny.model(), config(), evaluate=lambda m: {"accuracy": 0.25}, name="tiny", dataset="toy")
    history.save(tmp_path / "history.json")
    again = History.load(tmp_path / "history.json")
    assert again == history and again.run.method == "lora" and again.run.config["adapter"]["rank"] == 4
    assert len(again.rows()) == 16 and again.evaluation_rows()[0]["accuracy"] == 0.25
    assert "tiny" in str(again)
    for broken, words in [("{}", 'no "schema"'), ("[", "history.json"), ('{"schema": 99}', "schema 99")]:
        (tmp_path / "history.json").write_text(broken)
        with pytest.raises(ValueError, match=words):
            History.load(tmp_path / "history.json")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 1.5}, "whole number"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": math.nan}, "finite"),
        ({"schedule": "step"}, "linear, cosine, constant"),
        ({"warmup_fraction": 2}, "fraction of all steps"),
        ({"max_grad_norm": 0}, "None for no clipping"),
        ({"weight_decay": -1}, "0 or more"),
        ({"patience": 0}, "at least 1"),
        ({"seed": 2**32}, "below 2"),
        ({"accumulation_steps": True}, "whole number"),
    ],
)
def test_bad_settings(changes, words):
    with pytest.raises((ValueError, TypeError), match=words):
        config(**changes)


def test_bad_input():
    with pytest.raises(ValueError, match="train_data is empty"):
        run(tiny.model(), config(), data=[])
    with pytest.raises(ValueError, match="patience stops by the evaluations"):
        run(tiny.model(), config(patience=1))
    with pytest.raises(ValueError, match="monitor='accuracy' is not among the metrics.*f1"):
        run(tiny.model(), config(patience=1), evaluate=lambda m: {"f1": 1.0})
    with pytest.raises(ValueError, match="the optimizer lacks .* after inject"):
        run(tiny.model(), config(), optimizer=torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]))
    with pytest.raises(ValueError, match="schedule gives -1.0 at step 0"):
        run(tiny.model(), config(), schedule=lambda *_: -1)
    with pytest.raises(ValueError, match="merged into the base.*unmerge"):
        run(merge(tiny.model()), config())
    with pytest.raises(ValueError, match="no labels, only input_ids, attention_mask"):
        run(tiny.model(), config(), data=[{"input_ids": [1, 2]}])
    with pytest.raises(ValueError, match="no parameter is trainable"):
        run(tiny.model().requires_grad_(False), config())


def test_r_drop_is_the_papers_formula():
    model, batch = tiny.model(dropout=0.3).double().train(), tiny.collate(tiny.data(6))
    model.classifier.weight.data.mul_(30)  # an untrained head answers nearly the same whatever dropout does
    torch.manual_seed(4)
    got = r_drop(1.5)(model, batch)
    torch.manual_seed(4)
    logits = model(
        input_ids=batch["input_ids"].repeat(2, 1), attention_mask=batch["attention_mask"].repeat(2, 1)
    ).logits
    p, q = logits.softmax(-1).chunk(2)
    labels = batch["labels"]
    entropy = -(p[range(6), labels].log() + q[range(6), labels].log()).mean() / 2
    divergence = ((p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1)).mean()
    assert divergence > 1e-4
    assert_close(got, entropy + 1.5 / 4 * divergence, rtol=0, atol=1e-12)
    model.eval()  # without dropout the two passes agree, and what is left is the model's own loss
    assert_close(r_drop(1.5)(model, batch), model(**batch).loss, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="alpha must be 0 or more"):
        r_drop(-1)


def test_fit_uses_the_loss_it_is_given():
    plain, doubled = (run(tiny.model(dropout=0.3), config(epochs=1), loss=loss) for loss in (model_loss, r_drop(4.0)))
    assert plain.steps[0].loss != doubled.steps[0].loss and len(plain.steps) == len(doubled.steps)
