"""Checks of lesson 00, the start: how much is trained, and what a score must beat."""

import warnings
from collections import Counter

import torch
from torch import nn

from lora_course.teaching.compare import Wrong, diagnose, expect_close
from lora_course.teaching.exercises import exercise


def trainable_percent(model: nn.Module) -> float:
    from lora_course import parameter_report

    return parameter_report(model).percent


@exercise(
    "00.1",
    title="How much of it is trained?",
    reference=trainable_percent,
    verified="right for a frozen model, an open one, a mixed one, one with blocks and buffers, and one that uses a "
    "weight twice",
    minutes=8,
    difficulty=1,
)
def check_percent(answer):
    def layers() -> nn.Sequential:
        return nn.Sequential(nn.Linear(10, 30), nn.Linear(30, 3), nn.LayerNorm(3))

    nested = nn.Sequential(nn.Sequential(nn.Linear(10, 30), nn.BatchNorm1d(30)), nn.Linear(30, 3))
    nested[0].requires_grad_(False)
    mixed, frozen, tied = layers(), layers().requires_grad_(False), nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 50))
    mixed[0].requires_grad_(False)
    tied[1].weight = tied[0].weight
    tied[1].bias.requires_grad_(False)
    for name, model in [
        ("with a frozen first layer", mixed),
        ("with everything open", layers()),
        ("with everything frozen", frozen),
        ("that uses one weight twice", tied),
        ("with a block inside, and running means", nested),
    ]:
        parameters = list(model.parameters())
        total, trained = sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
        expected = 100 * trained / total
        yours = answer(model)
        tensors = 100 * sum(p.requires_grad for p in parameters) / len(parameters)
        buffers = sum(b.numel() for b in model.buffers())
        twice = [p for _, p in model.named_parameters(remove_duplicate=False)]
        likely = diagnose(
            yours,
            {
                "that is a fraction: multiply by 100": expected / 100,
                "you counted tensors, not the numbers in them: use p.numel()": tensors,
                "you divided by the frozen parameters, not by all of them": 100 * trained / max(1, total - trained),
                "that is the frozen share": 100 - expected,
                "buffers, such as running means, are no parameters": 100 * trained / (total + buffers),
                "that is the number of trained parameters, not their share": trained,
                "a weight that two layers share was counted twice: model.parameters() gives it once": 100
                * sum(p.numel() for p in twice if p.requires_grad)
                / sum(p.numel() for p in twice),
            },
        )
        expect_close(f"the percentage trained of a model {name}", yours, expected, likely, atol=1e-6)


def majority_baseline(train_labels: list[int], test_labels: list[int]) -> float:
    (label, _), *_ = Counter(train_labels).most_common(1)
    return sum(y == label for y in test_labels) / len(test_labels)


@exercise(
    "00.2",
    title="What must a model beat?",
    reference=majority_baseline,
    verified="the label is chosen on the training set, scored on the test set, also when the two disagree",
    minutes=8,
    difficulty=1,
)
def check_majority(answer):
    cases = [([1, 1, 0, 1], [0, 0, 1, 0, 0]), ([0, 1, 0], [0, 0, 1, 1]), ([1, 1, 1], [1, 1]), ([0, 0, 1], [1, 1, 1])]
    cases.append(([2, 0, 2, 1, 2, 0], [2, 0, 1, 2]))
    for train, test in cases:
        expected = majority_baseline(train, test)
        yours = answer(list(train), list(test))
        best = Counter(test).most_common(1)[0][1] / len(test)
        on_train = Counter(train).most_common(1)[0][1] / len(train)
        likely = diagnose(
            yours,
            {
                "you picked the label by looking at the test set: that is peeking": best,
                "that is the score on the training set": on_train,
                "you picked the rarer label": 1 - expected,
                "that is a percentage: return a fraction between 0 and 1": 100 * expected,
                "that is the number of hits: divide by the number of test labels": expected * len(test),
                "that is the share of positive labels": sum(test) / len(test),
                "labels need not be 0 and 1: count how often each occurs": sum(
                    y == round(sum(train) / len(train)) for y in test
                )
                / len(test),
            },
        )
        expect_close(f"accuracy on {test} of the label most frequent in {train}", yours, expected, likely, atol=1e-9)


def evaluate_properly(model: nn.Module, batch: dict) -> torch.Tensor:
    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = model(**batch)
    model.train(was_training)
    return logits


class _Probe(nn.Module):
    """A model that notices how it is called."""

    def __init__(self):
        super().__init__()
        self.layer, self.dropout = nn.Linear(6, 2), nn.Dropout(0.5)
        self.saw_training = self.saw_gradients = None

    def forward(self, x):
        self.saw_training, self.saw_gradients = self.training, torch.is_grad_enabled()
        return self.layer(self.dropout(x))


@exercise(
    "00.3",
    title="Measure without touching",
    reference=evaluate_properly,
    verified="dropout is off while measuring, no graph is kept, and the model is back in the mode it was in",
    minutes=8,
    difficulty=2,
)
def check_evaluate(answer):
    for mode in (True, False):
        probe = _Probe().train(mode)
        x = torch.randn(32, 6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yours = answer(probe, {"x": x})
        if probe.saw_training is None:
            raise Wrong("the model is called", yours="it never ran", expected="model(**batch)")
        if probe.saw_training:
            raise Wrong(
                "dropout is off while measuring",
                yours="the model ran in training mode",
                expected="eval mode",
                likely="call model.eval() before the model runs: torch.no_grad() alone does not switch dropout off",
            )
        if probe.saw_gradients:
            raise Wrong(
                "no graph is kept",
                yours="gradients were enabled",
                expected="torch.no_grad()",
                likely="model.eval() does not switch gradients off: memory is kept for a backward pass that "
                "never comes",
            )
        if probe.training != mode:
            now, before = ("training" if m else "eval" for m in (probe.training, mode))
            raise Wrong(
                "the model is in the mode it was in before",
                yours=f"{now} mode",
                expected=f"{before} mode",
                likely="remember model.training first and give it back: model.train(was_training)",
            )
        expect_close("the returned logits are the model's", yours, probe.layer(x))
    if not torch.is_grad_enabled():
        torch.set_grad_enabled(True)
        raise Wrong(
            "gradients are on again afterwards",
            yours="off for the rest of the notebook",
            expected="on",
            likely="use `with torch.no_grad():` rather than torch.set_grad_enabled(False)",
        )
