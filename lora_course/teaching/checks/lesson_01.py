"""Checks of lesson 01, why low rank: the best approximation, its energy, its price, and a pair B, A that holds it."""

import math

import torch
from torch import Tensor

from lora_course.teaching.compare import Wrong, diagnose, expect_close, expect_equal, expect_parts
from lora_course.teaching.exercises import exercise

IN, OUT, RANK = 9, 6, 3  # all different, so that a swap or a forgotten factor shows


def truncate(matrix: Tensor, rank: int) -> Tensor:
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return U[:, :rank] @ S[:rank].diag() @ Vh[:rank]


@exercise(
    "01.1",
    title="The best matrix of rank r",
    reference=truncate,
    verified="for tall and wide matrices and for ranks from 0 to all of them: the rank is right, and the error is the "
    "root of the sum of the squared singular values left out, which Eckart and Young proved is the least there is",
    minutes=10,
    difficulty=2,
)
def check_truncate(answer):
    for shape in ((OUT, IN), (IN, OUT), (IN, IN)):
        matrix = torch.randn(*shape, dtype=torch.float64)
        U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
        for rank in (1, RANK, 0, min(shape)):
            kept = slice(0, rank)
            expected = (U[:, kept] * S[kept]) @ Vh[kept]
            before = matrix.clone()
            yours = answer(matrix, rank)
            expect_close("your function leaves its argument as it was", matrix, before, "work on new tensors")
            smallest = (U.flip(1)[:, kept] * S.flip(0)[kept]) @ Vh.flip(0)[kept]
            columns = torch.cat([matrix[:, kept], torch.zeros_like(matrix)[:, rank:]], dim=1)
            mistakes = {
                "you left the singular values out: U_r V_r has the right directions and the wrong sizes": U[:, kept]
                @ Vh[kept],
                "you kept the smallest singular values: torch.linalg.svd sorts them from large to small": smallest,
                "you kept the first columns of the matrix: the best directions are seldom the coordinate axes": columns,
                "each singular value counts twice: put S on U or on V, not on both": (U[:, kept] * S[kept] ** 2)
                @ Vh[kept],
                "you took the square root of the singular values": (U[:, kept] * S[kept].sqrt()) @ Vh[kept],
                "that is what you should leave out: the rest, not the approximation": matrix - expected,
                "that is the whole matrix: nothing was cut off": matrix,
            }
            if rank < min(shape):
                mistakes["one too many: 'the first r' is [:rank], which ends before index rank"] = (
                    U[:, : rank + 1] * S[: rank + 1]
                ) @ Vh[: rank + 1]
            if shape[0] == shape[1]:
                mistakes["torch.linalg.svd returns V transposed already, as Vh: its rows are the directions, do not "
                         "transpose it again"] = (U[:, kept] * S[kept]) @ Vh.T[kept]
            expect_close(
                f"the best rank-{rank} approximation of a {shape} matrix", yours, expected, diagnose(yours, mistakes)
            )


def rank_for_energy(singular_values: Tensor, share: float) -> int:
    energy = singular_values.double().square()
    captured = energy.cumsum(0) / energy.sum()
    return min(int((captured < share - 1e-12).sum()) + 1, len(captured))


@exercise(
    "01.2",
    title="How much rank for how much of it?",
    reference=rank_for_energy,
    verified="the smallest rank that holds the share of the energy, when the share is met exactly, when one direction "
    "is enough, when all are needed and rounding keeps the sum just below 1; an int",
    minutes=8,
    difficulty=2,
)
def check_energy(answer):
    cases = [
        ([4.0, 2.0, 2.0, 1.0], 0.9, "a share between two ranks"),
        ([3.0, 1.0, 1.0, 1.0, 1.0, 1.0], 0.6, "singular values that fall slowly"),
        ([4.0, 2.0, 2.0, 1.0], 0.8, "a share that a rank meets exactly (16 + 4 of 25)"),
        ([5.0, 0.1, 0.1], 0.9, "one direction that is nearly all"),
        ([1.0, 1.0, 1.0, 1.0], 0.5, "equal singular values"),
        ([2.0, 1.0, 1.0, 1.0, 1.0], 0.6, "one that is twice as large as the others"),
        ([0.1] * 10, 1.0, "everything: share 1"),
    ]
    mistakes = {
        "you returned the index of the direction, which starts at 0: the rank is a count, one more": lambda s, share: (
            rank_for_energy(s, share) - 1
        ),
        "you added the singular values themselves: energy is their squares, because that is what adds up in the "
        "Frobenius norm": lambda s, share: rank_for_energy(s.sqrt(), share),
        "you took the share of the norm instead of the squared norm": lambda s, share: rank_for_energy(s, share**2),
        "you started from the smallest singular value": lambda s, share: rank_for_energy(s.flip(0), share),
        "a rank that holds exactly this share is enough": lambda s, share: rank_for_energy(s, share + 1e-9),
        "rounding leaves the last sum a little below 1: never return more than there are": lambda s, share: (
            rank_for_energy(s, share) + (share == 1)
        ),
        "you counted singular values above a threshold; add their squares up instead": lambda s, share: int(
            (s >= share).sum()
        ),
    }
    given = [(torch.tensor(values), share) for values, share, _ in cases]
    yours = [answer(s.clone(), share) for s, share in given]
    likely = diagnose(yours, {text: [f(s, share) for s, share in given] for text, f in mistakes.items()})
    for (s, share), (values, _, what), mine in zip(given, cases, yours, strict=True):
        expect_equal(f"{what}: {values} with share {share} needs rank", mine, rank_for_energy(s, share), likely)
        if isinstance(mine, bool) or not isinstance(mine, int):
            raise Wrong(
                "the rank is a Python int",
                yours=type(mine).__name__,
                expected="int",
                likely="a tensor prints like a number and slices like one, until it meets json or a config: use int()",
            )


def largest_cheaper_rank(in_features: int, out_features: int) -> int:
    return (in_features * out_features - 1) // (in_features + out_features)


@exercise(
    "01.3",
    title="When low rank stops being cheap",
    reference=largest_cheaper_rank,
    verified="strictly cheaper at this rank and no longer at the next, for square, tall, wide and very thin matrices, "
    "and where the two prices meet exactly; an int",
    minutes=8,
    difficulty=1,
)
def check_break_even(answer):
    sizes = [(384, 1536), (768, 768), (20, 12), (6, 3), (3, 7), (1, 50), (4096, 14336)]
    mistakes = {
        "half the smaller side is right for square matrices only: write both prices down": lambda n, k: min(n, k) // 2,
        "that is the largest rank a matrix of this shape can have, not the largest that pays": min,
        "you rounded up: at that rank B and A hold more than the matrix": lambda n, k: -(-n * k // (n + k)),
        "a rank is a whole number: round down": lambda n, k: n * k / (n + k),
        "where B and A hold exactly as much as the matrix, they are not cheaper: 'fewer' is strict": lambda n, k: (
            n * k // (n + k)
        ),
        "you compared with B alone: A has rank x in_features numbers too": lambda n, k: (n * k - 1) // k,
        "you compared with A alone: B has out_features x rank numbers too": lambda n, k: (n * k - 1) // n,
    }
    yours = [answer(*size) for size in sizes]
    likely = diagnose(yours, {text: [f(*size) for size in sizes] for text, f in mistakes.items()})
    for size, mine in zip(sizes, yours, strict=True):
        expect_equal(
            f"in {size[0]}, out {size[1]}: the largest rank with fewer numbers",
            mine,
            largest_cheaper_rank(*size),
            likely,
        )
        if isinstance(mine, bool) or not isinstance(mine, int):
            raise Wrong("the rank is an int", yours=type(mine).__name__, expected="int", likely="use // instead of /")


def balanced_factors(delta: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    root = (S[:rank] / scaling).sqrt()
    return U[:, :rank] * root, root[:, None] * Vh[:rank]


@exercise(
    "01.4",
    title="From a change to a pair B, A",
    reference=balanced_factors,
    verified="shapes (out, r) and (r, in); s B A is the best approximation of rank r; B and A carry it in equal parts, "
    "B^T B = A A^T; for tall and wide changes, and scalings above and below 1",
    minutes=12,
    difficulty=3,
)
def check_factors(answer):
    for n_out, n_in, scaling in ((OUT, IN, 2.5), (IN, OUT, 0.4)):
        delta = torch.randn(n_out, n_in, dtype=torch.float64)
        result = answer(delta, RANK, scaling)
        expect_parts("balanced_factors returns the pair B, A", result, "B, A")
        B, A = result
        shapes = [tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__ for t in (B, A)]
        likely = "B has shape (out, r), A has shape (r, in), and in the equation B comes first"
        if shapes == [(RANK, n_in), (n_out, RANK)]:
            likely = "you returned A, B: the order asked for is B, A"
        elif shapes == [(n_out, RANK), (n_in, RANK)]:
            likely = "A is transposed: take rows of Vh, which are its directions"
        expect_equal("the shapes of B and A", shapes, [(n_out, RANK), (RANK, n_in)], likely)
        best = truncate(delta, RANK)
        yours = scaling * B @ A
        U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
        mistakes = {
            "the scaling is missing: the layer multiplies B A by s, so divide by s here": scaling * best,
            "each factor was divided by s: together they carry 1/s squared": best / scaling,
            "you multiplied by s instead of dividing": scaling**2 * best,
            "the singular values are in both factors: their square root belongs in each": scaling
            * (U[:, :RANK] * S[:RANK] ** 2)
            @ Vh[:RANK],
            "the singular values are in both factors, and so is 1/s": (U[:, :RANK] * S[:RANK] ** 2) @ Vh[:RANK],
            "the singular values are in neither factor": U[:, :RANK] @ Vh[:RANK],
            "the singular values are in neither factor, and neither is 1/s": scaling * U[:, :RANK] @ Vh[:RANK],
        }
        expect_close(f"s B A is the best rank-{RANK} approximation", yours, best, diagnose(yours, mistakes))
        left, right = B.T @ B, A @ A.T
        ratio = (left.diagonal().sum() / right.diagonal().sum()).item()
        likely = "put the square root of each singular value on either side"
        if math.isclose(left.diagonal().sum(), RANK, rel_tol=1e-6):
            likely = "all of the singular values are in A: put the square root of each on either side"
        elif math.isclose(right.diagonal().sum(), RANK, rel_tol=1e-6):
            likely = "all of the singular values are in B: put the square root of each on either side"
        elif not math.isclose(ratio, 1.0, rel_tol=1e-6):
            likely = "1/s is in one factor alone: share it too, 1/sqrt(s) each"
        expect_close("B and A carry it in equal parts: B^T B = A A^T", left, right, likely)
