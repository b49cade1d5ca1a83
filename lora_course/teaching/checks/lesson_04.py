"""Checks of lesson 04, sentiment: padding, scores, schedule, accumulation."""

import torch
import torch.nn.functional as F
from torch import nn

from lora_course.teaching.compare import Wrong, diagnose, expect_close, expect_equal, expect_parts
from lora_course.teaching.exercises import exercise
from lora_course.training.batching import pad_collate
from lora_course.training.config import warmup_then_decay
from lora_course.training.metrics import confusion_counts

PAD = 7  # not 0, so that a hard-coded 0 shows; it occurs in a sentence too, as GPT-2's end-of-text does


@exercise(
    "04.1",
    title="Pad the batch, not the data set",
    reference=pad_collate,
    verified="each batch is as wide as its longest sentence; ids, mask and labels are right for any pad token",
    minutes=15,
    difficulty=2,
)
def check_padding(answer):
    batches = [[[1, 2, 3], [4, 5, PAD, 8, 9], [2]], [[3, 3], [1, 4]], [[5]]]
    for ids in batches:
        examples = [{"input_ids": row, "labels": i % 2} for i, row in enumerate(ids)]
        before = [list(row) for row in ids]
        batch = answer(examples, PAD)
        if not hasattr(batch, "keys"):
            raise Wrong(
                "a batch is a dictionary of tensors",
                yours=batch,
                expected="{'input_ids': ..., 'attention_mask': ..., 'labels': ...}",
            )
        expect_equal("the keys of the batch", sorted(batch), ["attention_mask", "input_ids", "labels"])
        longest = max(map(len, ids))
        if isinstance(batch["input_ids"], torch.Tensor) and batch["input_ids"].dim() == 2:
            width = batch["input_ids"].shape[1]
            likely = None
            if width > longest:
                likely = "pad to the longest sentence of this batch: anything more is work on padding"
            elif width < longest:
                likely = "sentences are cut: pad to the longest, not to the shortest or the first"
            expect_equal("the batch is as wide as its longest sentence", width, longest, likely)
        right = pad_collate([{"input_ids": row, "labels": i % 2} for i, row in enumerate(before)], PAD)
        zeros = pad_collate([{"input_ids": row, "labels": i % 2} for i, row in enumerate(before)], 0)["input_ids"]
        left = torch.tensor([[PAD] * (longest - len(row)) + row for row in before])
        expect_close(
            "input_ids",
            batch["input_ids"],
            right["input_ids"],
            diagnose(
                batch["input_ids"],
                {
                    "you pad with 0: use pad_token_id, which is not 0 in every tokenizer": zeros,
                    "you pad on the left: BERT counts positions from the first token, so pad on the right": left,
                },
            ),
        )
        expect_close(
            "attention_mask",
            batch["attention_mask"],
            right["attention_mask"],
            diagnose(
                batch["attention_mask"],
                {
                    "the mask is all ones: the model would attend to padding": torch.ones_like(right["attention_mask"]),
                    "the mask follows the lengths, not the ids: the pad token may occur in a sentence, as where it is "
                    "the end-of-text token": (right["input_ids"] != PAD).long(),
                    "the mask is upside down: 1 means attend, 0 means padding": 1 - right["attention_mask"],
                },
            ),
        )
        expect_close("labels", batch["labels"], right["labels"])
        for key in ("input_ids", "attention_mask", "labels"):
            if batch[key].dtype != torch.int64:
                raise Wrong(
                    f"{key} holds whole numbers",
                    yours=str(batch[key].dtype),
                    expected="torch.int64",
                    likely="an embedding looks up int64 ids, and cross entropy wants int64 classes",
                )
        if ids != before:
            raise Wrong(
                "the examples stay as they were",
                yours="input_ids of the examples grew",
                expected="unchanged lists",
                likely="row += [...] changes the data set itself: the next epoch "
                "would be padded twice. Build a new list: row + [...]",
            )


def score(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    counts = confusion_counts(logits.argmax(-1), labels)
    return counts.accuracy, counts.f1


@exercise(
    "04.2",
    title="Accuracy and F1",
    reference=score,
    verified="equal to counting by hand on eight sets of answers, skewed ones and those without a positive included",
    minutes=15,
    difficulty=2,
)
def check_score(answer):
    cases = [
        ([1, 1, 0, 0, 1], [1, 0, 0, 1, 1]),
        ([1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 1, 0]),
        ([0] * 9 + [1], [0] * 9 + [1]),
        ([0, 0, 0], [1, 0, 0]),
        ([0, 0], [0, 0]),
        ([1, 1, 1], [0, 1, 0]),
        ([1, 0], [1, 1]),
        ([1, 1], [1, 0]),
    ]
    for predicted, actual in cases:
        p, y = torch.tensor(predicted), torch.tensor(actual)
        logits = torch.randn(len(p), 2)
        logits = torch.where(F.one_hot(p, 2).bool(), logits.abs() + 0.1, -logits.abs() - 0.1)
        logits = logits + 3 * torch.arange(-1, len(p) - 1).unsqueeze(1)  # a row's level says nothing
        accuracy, f1 = score(logits, y)
        result = answer(logits.clone(), y.clone())
        expect_parts("score returns accuracy and F1", result, "accuracy, f1")
        where = f"predicted {predicted}, actual {actual}"
        expect_close(
            f"accuracy for {where}",
            result[0],
            accuracy,
            diagnose(
                result[0],
                {
                    "that is a percentage: return a fraction": 100 * accuracy,
                    "that is the number of hits: divide by the number of labels": accuracy * len(y),
                    "that is the share predicted positive, not the share right": float(p.float().mean()),
                    "compare the two logits of a sentence with each other, not one of them with 0: argmax": float(
                        ((logits[:, 1] > 0) == y).float().mean()
                    ),
                },
            ),
            atol=1e-6,
        )
        tp, fp, fn = ((p == 1) & (y == 1)).sum(), ((p == 1) & (y == 0)).sum(), ((p == 0) & (y == 1)).sum()
        tn = len(p) - tp - fp - fn
        if isinstance(result[1], float | torch.Tensor) and not torch.isfinite(torch.as_tensor(result[1])):
            raise Wrong(
                f"F1 for {where}",
                yours="not a number",
                expected=f1,
                likely="0 / 0: with no positive predicted and none present, say 0",
            )
        expect_close(
            f"F1 for {where}",
            result[1],
            f1,
            diagnose(
                result[1],
                {
                    "that is accuracy again": accuracy,
                    "that is precision alone: F1 is the harmonic mean of precision and recall": tp / max(1, tp + fp),
                    "that is recall alone: F1 is the harmonic mean of precision and recall": tp / max(1, tp + fn),
                    "that is the plain mean of precision and recall; F1 is the harmonic mean 2PR / (P + R)": (
                        tp / max(1, tp + fp) + tp / max(1, tp + fn)
                    )
                    / 2,
                    "that is the F1 of the negative class; ours is of class 1": 2 * tn / max(1, 2 * tn + fp + fn),
                },
            ),
            atol=1e-6,
        )


def learning_rate_factor(step: int, total_steps: int, warmup_steps: int) -> float:
    return warmup_then_decay(step, total_steps, warmup_steps, "linear")


@exercise(
    "04.3",
    title="Warm up, then decay",
    reference=learning_rate_factor,
    verified="rises from 0 to 1 over the warm-up, falls to 0 at the last step, works without warm-up",
    minutes=10,
    difficulty=2,
)
def check_schedule(answer):
    for total, warmup in [(100, 10), (20, 5), (10, 0), (30, 29)]:
        steps = range(total + 1)
        try:
            yours = [answer(s, total, warmup) for s in steps]
        except ZeroDivisionError as error:
            raise Wrong(
                f"works with {warmup} warm-up steps of {total}",
                yours="ZeroDivisionError",
                expected="a factor",
                likely="without warm-up there is nothing to divide by: ask for step < warmup_steps first",
            ) from error
        expected = [learning_rate_factor(s, total, warmup) for s in steps]
        likely = diagnose(
            yours,
            {
                "there is no warm-up: rise from 0 over the first warmup_steps": [1 - s / total for s in steps],
                "it never decays: after the warm-up, fall in a line to 0 at total_steps": [
                    min(1.0, s / warmup) if warmup else 1.0 for s in steps
                ],
                "the decay starts from step 0: measure it from the end of the warm-up, or the factor jumps": [
                    s / warmup if s < warmup else 1 - s / total for s in steps
                ],
                "it falls with the wrong slope: the decay lasts total_steps - warmup_steps": [
                    s / warmup if s < warmup else max(0.0, 1 - (s - warmup) / total) for s in steps
                ],
            }
            if warmup
            else {},
        )
        expect_close(
            f"the factor at each step, {warmup} of {total} steps warming up", yours, expected, likely, atol=1e-9
        )


def accumulate(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, pieces: int) -> None:
    for x, y in zip(inputs.chunk(pieces), targets.chunk(pieces), strict=True):
        loss = F.cross_entropy(model(x), y, reduction="sum") / len(inputs)
        loss.backward()


@exercise(
    "04.4",
    title="A big batch in small pieces",
    reference=accumulate,
    verified="the gradient equals the big batch's, also when the last piece is smaller; no optimizer was needed",
    minutes=15,
    difficulty=3,
)
def check_accumulation(answer):
    for n, pieces in [(12, 3), (10, 4), (5, 1)]:
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        x, y = torch.randn(n, 6, dtype=torch.float64), torch.randint(3, (n,))
        sizes, waiting = [], []

        def note(module, args, out, sizes=sizes, waiting=waiting):
            waiting.append(bool(sizes) and next(module.parameters()).grad is None)
            sizes.append(len(args[0]))

        handle = model.register_forward_hook(note)

        def gradients(loss_of, model=model, x=x, y=y, pieces=pieces):
            parts = list(zip(x.chunk(pieces), y.chunk(pieces), strict=True))
            return torch.autograd.grad(loss_of(parts), list(model.parameters()))

        mean = lambda parts, model=model: F.cross_entropy(  # noqa: E731
            model(torch.cat([x for x, _ in parts])), torch.cat([y for _, y in parts])
        )
        expected = gradients(mean)
        summed = gradients(lambda parts, m=model: sum(F.cross_entropy(m(x), y) for x, y in parts))
        last = gradients(lambda parts, m=model: F.cross_entropy(m(parts[-1][0]), parts[-1][1]))
        sizes.clear(), waiting.clear()
        answer(model, x, y, pieces)
        handle.remove()
        if any(p.grad is None for p in model.parameters()):
            raise Wrong(
                "every parameter has a gradient afterwards",
                yours="grad is None",
                expected="the accumulated one",
                likely="call loss.backward() for each piece, and leave the gradients in p.grad",
            )
        if len(sizes) != len(x.chunk(pieces)):
            raise Wrong(
                f"the model runs once for each of the {len(x.chunk(pieces))} pieces",
                yours=f"{len(sizes)} times",
                expected=f"{len(x.chunk(pieces))} times",
                likely="the point is that only one piece is in memory at a time",
            )
        flat = lambda grads: torch.cat([g.flatten() for g in grads])  # noqa: E731
        yours, right = flat([p.grad for p in model.parameters()]), flat(expected)
        even = flat(summed) / pieces
        likely = diagnose(
            yours,
            {
                "the pieces are added without dividing: the gradient is too long by the number of pieces": flat(summed),
                "only the last piece is left: do not call zero_grad() between pieces": flat(last),
                "only the last piece is left, divided: do not call zero_grad() between pieces": flat(last) / pieces,
                "the last piece is smaller but counts as much: weight each loss by its number of examples": even,
            }
            if pieces > 1
            else {},
        )
        expect_equal("the gradient's length in numbers", yours.numel(), right.numel())
        expect_close(f"the gradient of {n} examples in {pieces} pieces", yours, right, likely, atol=1e-10, rtol=1e-8)
        if any(waiting):
            raise Wrong(
                "each piece goes back before the next one comes",
                yours="the second piece came while the first had left no gradient",
                expected="loss.backward() for each piece",
                likely="losses that are added up keep the graphs of all pieces until the end: as much memory as the "
                "big batch",
            )
