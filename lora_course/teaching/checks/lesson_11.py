"""Checks of lesson 11, dynamic rank: nested ranks, importance, the cubic budget, growing and shrinking."""

import torch
from torch import Tensor, nn

from lora_course.adapters.config import AdapterConfig
from lora_course.adapters.dylora import DyLoRA
from lora_course.adapters.lora import LoRA
from lora_course.adapters.rank_allocator import cubic_budget
from lora_course.adapters.resize import best_approximation, resize_rank
from lora_course.teaching.compare import Wrong, diagnose, expect_close, expect_equal, expect_parts, expect_untouched
from lora_course.teaching.exercises import exercise
from lora_course.teaching.tensor_sizes import TensorSizes

IN, OUT, RANK, ALPHA = 20, 12, 5, 7.0  # all different, so that a swap or a forgotten factor shows


def random_tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(*shape, dtype=torch.float64) for shape in shapes]


def nested_branch(x: Tensor, A: Tensor, B: Tensor, alpha: float, rank: int) -> Tensor:
    return alpha / rank * (x @ A[:rank].T) @ B[:, :rank].T


@exercise(
    "11.1",
    title="One adapter, every rank",
    reference=nested_branch,
    verified="at each rank from 1 to r the branch equals that of a LoRA made of the first rows of A and columns of B, "
    "with the same alpha",
    minutes=10,
    difficulty=1,
)
def check_nested(answer):
    x, A, B = random_tensors((2, 3, IN), (RANK, IN), (OUT, RANK))
    leaves = [t.clone().requires_grad_() for t in (x, A, B)]
    layer = DyLoRA(nn.Linear(IN, OUT, bias=False, dtype=torch.float64), AdapterConfig(rank=RANK, alpha=ALPHA)).eval()
    layer.lora_A.data, layer.lora_B.data = A, B
    for rank in (1, 3, RANK):
        layer.eval_rank = rank
        expected = (layer(x) - layer.base_layer(x)).detach()
        raw = expected * rank / ALPHA
        yours = answer(x, A.clone(), B.clone(), ALPHA, rank)
        likely = diagnose(
            yours,
            {
                "all ranks are used: cut A and B after `rank`": ALPHA / RANK * x @ A.T @ B.T,
                "all ranks are used: cut A and B after `rank`; the scale is that of the lower rank": ALPHA
                / rank
                * x
                @ A.T
                @ B.T,
                "the scale is alpha over the full rank: a LoRA of this rank divides by its own": ALPHA / RANK * raw,
                "the scale is missing: alpha / rank": raw,
                "the scale is alpha, not alpha / rank": ALPHA * raw,
                "you took the last ranks: keep the first, which have learned to do without the others": ALPHA
                / rank
                * x
                @ A[-rank:].T
                @ B[:, -rank:].T,
            }
            if rank < RANK
            else {"the scale is missing: alpha / rank": raw, "the scale is alpha, not alpha / rank": ALPHA * raw},
        )
        expect_close(f"the branch at rank {rank} of {RANK}", yours, expected, likely, atol=1e-9)
        right = torch.autograd.grad(nested_branch(*leaves, ALPHA, rank).square().sum(), leaves)
        again, mine = answer(*leaves, ALPHA, rank), [None] * 3
        if again.requires_grad:
            mine = torch.autograd.grad(again.square().sum(), leaves, allow_unused=True)
        for name, g, r in zip(("x", "A", "B"), mine, right, strict=True):
            if g is None:
                raise Wrong(
                    f"{name} gets a gradient",
                    yours="no gradient",
                    expected="a gradient",
                    likely=f".data, .detach() or no_grad() cuts the graph between the branch and {name}",
                )
            expect_close(f"the gradient of {name} at rank {rank}", g, r)


def update_importance(
    weight: Tensor, gradient: Tensor, average: Tensor, spread: Tensor, beta1: float, beta2: float
) -> tuple[Tensor, Tensor, Tensor]:
    now = (weight * gradient).abs()
    average = beta1 * average + (1 - beta1) * now
    spread = beta2 * spread + (1 - beta2) * (now - average).abs()
    return average, spread, average * spread


@exercise(
    "11.2",
    title="What a rank is worth",
    reference=update_importance,
    verified="average, spread and score follow AdaLoRA's equations over three steps; your inputs stay as they were",
    minutes=15,
    difficulty=2,
)
def check_importance(answer):
    beta1, beta2 = 0.8, 0.6
    average, spread = torch.zeros(6, 1, dtype=torch.float64), torch.zeros(6, 1, dtype=torch.float64)
    for step in range(3):
        weight, gradient = random_tensors((6, 1), (6, 1))
        given = [t.clone() for t in (weight, gradient, average, spread)]
        result = answer(*given, beta1, beta2)
        expect_parts("update_importance returns three tensors", result, "average, spread, score")
        expect_untouched("weight, gradient, average, spread", given, (weight, gradient, average, spread))
        now = (weight * gradient).abs()
        follow = lambda old, new, beta: beta * old + (1 - beta) * new  # noqa: E731
        new_average, new_spread, score = update_importance(weight, gradient, average, spread, beta1, beta2)
        where = f"step {step + 1}"
        likely = diagnose(
            result[0],
            {
                "take the absolute value: a product that is negative matters as much": follow(
                    average, weight * gradient, beta1
                ),
                "that follows |gradient| alone: a rank of size 0 is worth nothing however steep it is": follow(
                    average, gradient.abs(), beta1
                ),
                "that follows |weight| alone: a large weight may not matter to the loss": follow(
                    average, weight.abs(), beta1
                ),
                "beta is upside down: it is the share of the old average that stays": follow(average, now, 1 - beta1),
                "nothing is smoothed: one batch is a noisy judge": now,
                "that uses beta2: the average follows with beta1": follow(average, now, beta2),
                "that uses the square: AdaLoRA follows the absolute value": follow(average, now.square(), beta1),
            },
        )
        expect_close(f"the average importance, {where}", result[0], new_average, likely, atol=1e-9)
        likely = diagnose(
            result[1],
            {
                "compare with the new average, not with the old one": follow(spread, (now - average).abs(), beta2),
                "take the absolute value of the difference: else ups and downs cancel": follow(
                    spread, now - new_average, beta2
                ),
                "the spread follows |importance - average|, not the importance": follow(spread, now, beta2),
                "that uses beta1: the spread follows with beta2": follow(spread, (now - new_average).abs(), beta1),
                "that is squared: the spread follows the absolute difference": follow(
                    spread, (now - new_average).square(), beta2
                ),
            },
        )
        expect_close(f"the spread, {where}", result[1], new_spread, likely, atol=1e-9)
        likely = diagnose(
            result[2],
            {
                "that is their sum: the score is average times spread": new_average + new_spread,
                "that is the average alone: the score is average times spread": new_average,
                "that is a quotient: the score is average times spread": new_average / new_spread,
                "the score uses the old average and spread": average * spread,
            },
        )
        expect_close(f"the score is average times spread, {where}", result[2], score, likely, atol=1e-9)
        average, spread = new_average, new_spread


@exercise(
    "11.3",
    title="A budget that falls like a cubic",
    reference=cubic_budget,
    verified="the budget of every step of three schedules: level while warming up, cubic, level at the target; "
    "whole numbers, rounded down",
    minutes=10,
    difficulty=2,
)
def check_budget(answer):
    # last and last - warmup are primes, so that no formula below meets a whole number on its way: rounding is certain
    for first, target, warmup, last in [(40, 16, 6, 29), (100, 30, 0, 17), (36, 13, 4, 11)]:
        steps, f = range(last + 6), first - target

        def schedule(formula, begin=warmup, end=last, first=first, target=target, steps=steps):
            between = lambda s: formula(s, (end - s) / (end - begin))  # noqa: E731
            return [first if s <= begin else target if s >= end else between(s) for s in steps]

        yours = [answer(s, first, target, warmup, last) for s in steps]
        expected = schedule(lambda s, left, f=f, e=target: int(f * left**3 + e))
        likely = diagnose(
            yours,
            {
                "that falls in a straight line: raise what is left to the third power": schedule(
                    lambda s, left, f=f, e=target: int(f * left + e)
                ),
                "that is a square: raise what is left to the third power": schedule(
                    lambda s, left, f=f, e=target: int(f * left**2 + e)
                ),
                "that falls slowly at first and steeply at the end: the cube is of what is *left*, so that most ranks "
                "go early": schedule(lambda s, left, f=f, e=target: int(f * (1 - (1 - left) ** 3) + e)),
                "progress is measured from step 0: measure it from the end of the warm-up": schedule(
                    lambda s, left, f=f, e=target, last=last: int(f * (1 - s / last) ** 3 + e)
                ),
                "round down: a fraction of a rank cannot be kept": schedule(
                    lambda s, left, f=f, e=target: f * left**3 + e
                ),
                "that rounds to the nearest: round down, as int() does": schedule(
                    lambda s, left, f=f, e=target: round(f * left**3 + e)
                ),
                "that falls to 0: the target must be added": schedule(lambda s, left, f=f: int(f * left**3)),
            },
        )
        where = f"from {first} to {target}, warm-up {warmup}, last step {last}"
        expect_equal(f"the budget at each step, {where}", yours, expected, likely)
        kinds = sorted({type(budget).__name__ for budget in yours})
        likely = "A[:27.0] is an error: // keeps a float a float, int() does not"
        expect_equal("a budget is an int, since it cuts matrices", kinds, ["int"], likely)


def grow(A: Tensor, B: Tensor, alpha: float, rank: int) -> tuple[Tensor, Tensor, float]:
    layer = _layer(A, B, alpha)
    resize_rank(layer, rank)
    return layer.lora_A.detach(), layer.lora_B.detach(), layer.config.alpha


def _layer(A: Tensor, B: Tensor, alpha: float) -> LoRA:
    base = nn.Linear(A.shape[1], B.shape[0], dtype=A.dtype)
    return LoRA(base, AdapterConfig(rank=len(A), alpha=alpha), A, B)


@exercise(
    "11.4",
    title="Grow without a jump",
    reference=grow,
    verified="the change s B A is what it was, to the last bit but rounding; the old ranks are untouched; the new ones "
    "can learn",
    minutes=15,
    difficulty=2,
)
def check_grow(answer):
    n_in, n_out, more = 400, 30, 8
    A, B = random_tensors((RANK, n_in), (n_out, RANK))
    A /= n_in**0.5
    result = answer(A.clone(), B.clone(), ALPHA, more)
    expect_parts("grow returns three things", result, "A, B, alpha")
    big_A, big_B, alpha = result
    expect_equal("the shape of the new A", tuple(big_A.shape), (more, n_in), "new ranks are new rows of A")
    expect_equal("the shape of the new B", tuple(big_B.shape), (n_out, more), "new ranks are new columns of B")
    expect_close("the old rows of A come first, unchanged", big_A[:RANK], A)
    expect_close("the old columns of B come first, unchanged", big_B[:, :RANK], B)
    new_A, new_B = big_A[RANK:], big_B[:, RANK:]
    if not new_A.any() and not new_B.any():
        raise Wrong(
            "the new ranks can learn",
            yours="their rows of A and their columns of B are all zero",
            expected="rows of A random, columns of B zero",
            likely="with both zero, each one's gradient is multiplied by the other: they stay dead for ever",
        )
    if new_B.any():
        both = "both are random: the output jumps the moment the rank grows. Make the new columns of B zero"
        only = "rows of A zero and columns of B random keeps the output too, but a new LoRA layer does it the other way"
        raise Wrong(
            "the new columns of B are zero",
            yours=new_B,
            expected="zeros",
            likely=both if new_A.any() else only,
        )
    before = ALPHA / RANK * B @ A
    yours = float(alpha) / more * big_B @ big_A
    likely = diagnose(
        yours,
        {
            "alpha stayed while the rank grew, so the scale alpha / rank shrank: alpha must grow along": before
            * RANK
            / more,
            "alpha went the wrong way: it grows with the rank": before * (RANK / more) ** 2,
        },
    )
    expect_close("the change s B A is what it was", yours, before, likely, atol=1e-10)
    spread, usual = new_A.std().item(), (3 * n_in) ** -0.5
    if torch.linalg.matrix_rank(big_A) < more:
        raise Wrong(
            "new rows of A point in directions of their own",
            yours=f"{more} rows of rank {int(torch.linalg.matrix_rank(big_A))}",
            expected=f"rank {more}",
            likely="two equal rows of A get the same gradient for ever, and count as one: draw new ones",
        )
    if not 0.8 < spread / usual < 1.25:
        raise Wrong(
            "new rows of A are as large as those of a new LoRA layer",
            yours=f"spread {spread:.4f}",
            expected=f"spread about {usual:.4f}, uniform within 1 / sqrt(in)",
            likely="torch.randn alone has spread 1, far louder than what the old rows began with. "
            "nn.init.kaiming_uniform_(rows, a=math.sqrt(5)) is what you used in 02.2",
        )


def shrink(A: Tensor, B: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    return best_approximation(A, B, rank)[:2]


@exercise(
    "11.5",
    title="Shrink by importance",
    reference=shrink,
    verified="B A is the best approximation of that rank, also where the last rank matters most and where two ranks "
    "say the same; no (out, in) matrix was made",
    minutes=25,
    difficulty=3,
)
def check_shrink(answer):
    n_in, n_out, rank = 60, 40, 2
    A, B = random_tensors((RANK, n_in), (n_out, RANK))
    B = B * torch.tensor([1.5, 0.6, 0.2, 2.0, 4.0], dtype=torch.float64)  # the last rank matters most
    A[3], B[:, 3] = A[0], -0.9 * B[:, 0]  # and these two nearly cancel
    B[:, 0] *= 1.2
    before = A.clone(), B.clone()
    U, S, Vh = torch.linalg.svd(B @ A, full_matrices=False)
    expected = U[:, :rank] @ torch.diag(S[:rank]) @ Vh[:rank]
    with TensorSizes(A, B) as made:
        result = answer(A, B, rank)
    expect_parts("shrink returns two tensors", result, "A, B")
    small_A, small_B = result
    expect_equal("the shape of the new A", tuple(small_A.shape), (rank, n_in))
    expect_equal("the shape of the new B", tuple(small_B.shape), (n_out, rank))
    of = lambda keep: B[:, keep] @ A[keep]  # noqa: E731
    sizes = A.norm(dim=1) * B.norm(dim=0)
    likely = diagnose(
        small_B @ small_A,
        {
            "you cut off the last ranks, whatever they had learned: order them by what they do": of(slice(0, rank)),
            "you kept the ranks whose row and column are longest. Two of them may say the same, or cancel: only the "
            "singular values of B A know": of(sizes.argsort(descending=True)[:rank]),
            "you kept the ranks with the longest rows of A": of(A.norm(dim=1).argsort(descending=True)[:rank]),
            "you kept the ranks with the longest columns of B. Two of them may say the same, or cancel": of(
                B.norm(dim=0).argsort(descending=True)[:rank]
            ),
            "you kept the smallest singular values: svd sorts them, largest first": U[:, RANK - rank : RANK]
            @ torch.diag(S[RANK - rank : RANK])
            @ Vh[RANK - rank : RANK],
            "the singular values are missing: put them into A or B, or their roots into both": U[:, :rank] @ Vh[:rank],
            "the singular values are in both A and B: give each their square roots, or one of them all": U[:, :rank]
            @ torch.diag(S[:rank] ** 2)
            @ Vh[:rank],
        },
    )
    expect_close("B A is the best approximation of rank 2", small_B @ small_A, expected, likely, atol=1e-8)
    expect_untouched("A, B", (A, B), before)
    if made.largest >= n_out * n_in:
        raise Wrong(
            "no (out, in) matrix is made on the way",
            yours=f"a tensor of {made.largest} numbers",
            expected=f"at most in * r = {n_in * RANK} at a time",
            likely="the answer is right, but B A was built in full. QR both thin matrices first: only r x r is left "
            "for the SVD then",
        )
