"""Checks of lesson 07: the scale of rsLoRA, the norm and forward of DoRA, the start and the export of PiSSA."""

import torch
from torch import Tensor, nn

from lora_course.adapters.config import AdapterConfig
from lora_course.adapters.pissa import PiSSA
from lora_course.teaching.compare import Wrong, diagnose, expect_close, expect_equal, expect_parts, expect_untouched
from lora_course.teaching.exercises import exercise
from lora_course.teaching.tensor_sizes import TensorSizes

IN, OUT, RANK, ALPHA = 20, 12, 3, 7.0  # all different, so that a swap or a forgotten factor shows
SCALING = ALPHA / RANK


def random_tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(*shape, dtype=torch.float64) for shape in shapes]


def change_after_one_step(grad_W: Tensor, A: Tensor, scaling: float, learning_rate: float) -> Tensor:
    return -learning_rate * scaling**2 * grad_W @ A.T @ A


@exercise(
    "07.1",
    title="The first step of rank r",
    reference=change_after_one_step,
    verified="the change of the weight equals that of one step of torch.optim.SGD on A and B, for two scalings",
    minutes=15,
    difficulty=2,
)
def check_first_step(answer):
    for scaling in (SCALING, ALPHA / RANK**0.5):
        A, grad_W = random_tensors((RANK, IN), (OUT, IN))
        lr = 0.3
        expected = _one_step_of_sgd(grad_W, A, scaling, lr)
        before = grad_W.clone(), A.clone()
        yours = answer(grad_W, A, scaling, lr)
        if isinstance(yours, Tensor) and tuple(yours.shape) == (OUT, RANK):
            raise Wrong(
                "the change of the weight is (out, in)",
                yours=f"shape {tuple(yours.shape)}",
                expected=f"shape {(OUT, IN)}",
                likely="that is B after the step; the weight changes by scaling * B A",
            )
        likely = diagnose(
            yours,
            {
                "it has the wrong sign: gradient descent goes against the gradient": -expected,
                "scaling enters twice: once in the gradient of B, once more in s B A": expected / scaling,
                "scaling is missing: it stands in the gradient of B and again in s B A": expected / scaling**2,
                "that is full fine-tuning's step: LoRA sees the gradient only through A": -lr * grad_W,
                "the learning rate is missing": expected / lr,
                "A enters twice: once in the gradient of B, once more in B A. The second is not the pseudo-inverse": -lr
                * scaling**2
                * grad_W
                @ torch.linalg.pinv(A)
                @ A,
            },
        )
        expect_close("the change of the weight after one step", yours, expected, likely, atol=1e-9)
        expect_untouched("grad_W, A", (grad_W, A), before)


def _one_step_of_sgd(grad_W: Tensor, A: Tensor, scaling: float, lr: float) -> Tensor:
    A = A.clone().requires_grad_()
    B = torch.zeros(len(grad_W), len(A), dtype=A.dtype, requires_grad=True)
    (grad_W * (scaling * B @ A)).sum().backward()  # a loss whose gradient with respect to the weight is grad_W
    torch.optim.SGD([A, B], lr=lr).step()
    return (scaling * B @ A).detach()


def row_norms(W: Tensor, A: Tensor, B: Tensor, scaling: float) -> Tensor:
    C = W @ A.T  # (out, r)
    squares = torch.linalg.vector_norm(W, dim=1).square()
    squares = squares + 2 * scaling * (C * B).sum(1) + scaling**2 * (B @ (A @ A.T) * B).sum(1)
    return squares.clamp_min(0).sqrt()


def dora_forward(x: Tensor, W: Tensor, bias: Tensor, A: Tensor, B: Tensor, magnitude: Tensor, scaling: float) -> Tensor:
    stretch = magnitude / row_norms(W, A.detach(), B.detach(), scaling)
    return stretch * (x @ W.T + scaling * (x @ A.T) @ B.T) + bias


@exercise(
    "07.2",
    title="The DoRA forward",
    reference=dora_forward,
    verified="output and gradients of x, A, B and the magnitude equal m / |V| (W + s B A) x + b, with |V| of each row "
    "held constant in the backward pass",
    minutes=20,
    difficulty=3,
)
def check_dora_forward(answer):
    for shape in ((2, 5, IN), (7, IN)):
        x, W, bias, A, B = random_tensors(shape, (OUT, IN), (OUT,), (RANK, IN), (OUT, RANK))
        m = torch.rand(OUT, dtype=torch.float64) + 0.5
        leaves = {"x": x, "A": A, "B": B, "the magnitude": m}
        for leaf in leaves.values():
            leaf.requires_grad_()
        V = W + SCALING * B @ A
        z = x @ V.T
        rows, columns = V.norm(dim=1), V.norm(dim=0)
        expected = m / rows.detach() * z + bias
        yours = answer(x, W, bias, A, B, m, SCALING)
        if isinstance(yours, Tensor) and yours.shape != expected.shape:
            likely = "x may have any number of leading dimensions: (..., in) gives (..., out)"
            expect_equal("the shape of the output", tuple(yours.shape), tuple(expected.shape), likely)
        likely = diagnose(
            yours,
            {
                "you divide by the lengths of the columns, one for each input. Each output has its own length: "
                "norm over dim 1 of V (out, in)": x @ (m.unsqueeze(1) * V / columns).T + bias,
                "you divide by one length for the whole matrix: each row has its own": m / V.norm() * z + bias,
                "you divide by the lengths of W's rows: V = W + s B A is what gets direction only": m
                / W.norm(dim=1)
                * z
                + bias,
                "you do not divide by the length of the rows: m would stretch rows that have a length already": m * z
                + bias,
                "the bias is stretched along: it stands outside, added at the end": m / rows * (z + bias),
                "the bias is missing": m / rows * z,
                "the magnitude is missing: a direction has length 1, m gives it its length": z / rows + bias,
                "only the change is normalised: V is W and the change together": x @ W.T
                + m / (SCALING * B @ A).norm(dim=1) * (z - x @ W.T)
                + bias,
                "the scaling is missing: V = W + s B A": m / (W + B @ A).norm(dim=1) * (x @ (W + B @ A).T) + bias,
            },
        )
        expect_close("the output is m / |V| V x + b", yours, expected, likely, atol=1e-9, rtol=1e-8)
        mine = torch.autograd.grad(yours.square().sum(), list(leaves.values()), allow_unused=True)
        right = torch.autograd.grad(expected.square().sum(), list(leaves.values()), retain_graph=True)
        attached = torch.autograd.grad((m / rows * z + bias).square().sum(), list(leaves.values()))
        for name, g, r, through in zip(leaves, mine, right, attached, strict=True):
            if g is None:
                raise Wrong(
                    f"{name} gets a gradient",
                    yours="no gradient",
                    expected="a gradient",
                    likely="only the length is held constant: detach it alone, not V or the magnitude",
                )
            mistakes = (
                {}
                if name in ("x", "the magnitude")
                else {"the gradient flows through the length too: the paper holds it constant. Detach it": through}
            )
            expect_close(f"the gradient of {name}", g, r, diagnose(g, mistakes), atol=1e-8, rtol=1e-7)


@exercise(
    "07.3",
    title="Row lengths without the big matrix",
    reference=row_norms,
    verified="the lengths of the rows of W + s B A to 1e-9, and no tensor as large as W was made on the way",
    minutes=20,
    difficulty=3,
)
def check_row_norms(answer):
    n_in, n_out = 60, 40
    W, A, B = random_tensors((n_out, n_in), (RANK, n_in), (n_out, RANK))
    B[0], W[0] = 0.0, W[0] / 100  # a short row
    V = W + SCALING * B @ A
    expected, before = V.norm(dim=1), (W.clone(), A.clone(), B.clone())
    with TensorSizes(W, A, B) as made:
        yours = answer(W, A, B, SCALING)
    squares, cross, low = W.square().sum(1), (W * (B @ A)).sum(1), (B @ A).square().sum(1)
    likely = diagnose(
        yours,
        {
            "those are the squares: take the root at the end": expected.square(),
            "those are the lengths of the columns, one for each input: sum over dim 1": V.norm(dim=0),
            "that is one length for the whole matrix: DoRA wants one for each row": V.norm(),
            "those are the rows of W alone: the adapter turns and stretches them": squares.sqrt(),
            "the mixed term counts twice: (a + b)^2 = a^2 + 2 a b + b^2": (
                squares + SCALING * cross + SCALING**2 * low
            ).sqrt(),
            "the mixed term 2 s W . BA is missing": (squares + SCALING**2 * low).sqrt(),
            "the last term carries s squared": (squares + 2 * SCALING * cross + SCALING * low).sqrt(),
            "the scaling is missing": (squares + 2 * cross + low).sqrt(),
        },
    )
    expect_untouched("W, A, B", (W, A, B), before)
    expect_close("the lengths of the rows of W + s B A", yours, expected, likely, atol=1e-9, rtol=1e-9)
    if made.largest >= W.numel():
        raise Wrong(
            "no tensor as large as W is made on the way",
            yours=f"one of {made.largest} numbers; W has {W.numel()}",
            expected=f"at most out * r = {n_out * RANK} at a time",
            likely="the lengths are right, but B A, or W squared entry by entry, is another whole matrix. "
            "torch.linalg.vector_norm(W, dim=1) makes none; C = W A^T does the rest",
        )


def pissa_init(W: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor, Tensor]:
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    root = torch.sqrt(S[:rank] / scaling)
    A, B = root.unsqueeze(1) * Vh[:rank], U[:, :rank] * root
    return W - scaling * B @ A, A, B


@exercise(
    "07.4",
    title="Start at the large singular values",
    reference=pissa_init,
    verified="s B A is the best rank-r approximation of W; A and B carry equal shares of it; what is left plus s B A "
    "is W; W itself was not touched",
    minutes=15,
    difficulty=2,
)
def check_pissa(answer):
    for n_out, n_in in ((OUT, IN), (IN, OUT)):
        (W,) = random_tensors((n_out, n_in))
        before = W.clone()
        U, S, Vh = torch.linalg.svd(W, full_matrices=False)
        part = lambda i, U=U, S=S, Vh=Vh: U[:, i] @ torch.diag(S[i]) @ Vh[i]  # noqa: E731
        top, bottom = part(slice(0, RANK)), part(slice(-RANK, None))
        squared = U[:, :RANK] @ torch.diag(S[:RANK] ** 2) @ Vh[:RANK]
        result = answer(W, RANK, SCALING)
        expect_parts("pissa_init returns three tensors", result, "W_residual, A, B")
        residual, A, B = result
        expect_close("W stays as it was", W, before, "W was changed in place: make a new tensor for what is left")
        likely = "A is (r, in) and B (out, r): rows of Vh for A, columns of U for B"
        expect_equal("the shape of A", tuple(A.shape), (RANK, n_in), likely)
        expect_equal("the shape of B", tuple(B.shape), (n_out, RANK), likely)
        product = SCALING * B @ A
        likely = diagnose(
            product,
            {
                "divide by the scaling: it is s B A, not B A, that must hold the large part": SCALING * top,
                "those are the smallest singular values: svd sorts them, largest first": bottom,
                "those are the smallest singular values, and the scaling is not divided out": SCALING * bottom,
                "each of A and B carries the whole of S: give each its square root": SCALING * squared,
                "each of A and B carries the whole of S, not its square root": squared,
                "each of A and B carries S / s, not its square root": squared / SCALING,
                "the singular values are missing: sqrt(S_r / s) belongs into both": SCALING * U[:, :RANK] @ Vh[:RANK],
                "A and B are each divided by the scaling: divide S by it under the root": top / SCALING,
            },
        )
        expect_close("s B A is the best rank-r approximation of W", product, top, likely, atol=1e-9)
        sizes, ones = torch.linalg.svdvals(A), torch.ones(RANK, dtype=torch.float64)
        likely = diagnose(
            sizes,
            {
                "B carries all of the singular values: give A and B their square roots": ones,
                "A carries all of the singular values: give A and B their square roots": S[:RANK] / SCALING,
                "A carries all of the singular values, B the scaling: give both sqrt(S_r / s)": S[:RANK],
                "the scaling went into B alone: put sqrt(S_r / s) into both": S[:RANK].sqrt(),
                "the scaling went into A alone: put sqrt(S_r / s) into both": S[:RANK].sqrt() / SCALING,
            },
        )
        expect_close("the singular values of A are sqrt(S_r / s)", sizes, torch.sqrt(S[:RANK] / SCALING), likely, 1e-9)
        likely = diagnose(
            residual,
            {
                "that is W itself: s B A must be taken out, or the model starts with it twice": before,
                "that is the part taken out, not what is left": top,
                "the scaling is missing: what is left is W - s B A": before - B @ A,
                "that adds the part instead of taking it out": before + top,
            },
        )
        expect_close("what is left is W - s B A", residual, before - top, likely, atol=1e-9)


def export_as_lora(A: Tensor, B: Tensor, A0: Tensor, B0: Tensor, alpha: float) -> tuple[Tensor, Tensor, float]:
    layer = nn.Linear(A.shape[1], B.shape[0], bias=False, dtype=A.dtype)
    adapter = PiSSA(layer, AdapterConfig(method="pissa", rank=len(A), alpha=alpha))
    adapter.lora_A.data, adapter.lora_B.data, adapter.initial_A, adapter.initial_B = A, B, A0, B0
    plain = adapter.plain_lora()
    return plain.lora_A.detach(), plain.lora_B.detach(), plain.config.alpha


@exercise(
    "07.5",
    title="A file that opens anywhere",
    reference=export_as_lora,
    verified="a plain LoRA of rank 2r with your A, B and alpha, around the untouched W, gives the output of the PiSSA "
    "layer",
    minutes=15,
    difficulty=2,
)
def check_export(answer):
    W, A, B, A0, B0 = random_tensors((OUT, IN), (RANK, IN), (OUT, RANK), (RANK, IN), (OUT, RANK))
    result = answer(A, B, A0, B0, ALPHA)
    expect_parts("export_as_lora returns three things", result, "A, B, alpha")
    big_A, big_B, alpha = result
    likely = "stack A over A_0, (2r, in), and put B beside -B_0, (out, 2r)"
    expect_equal("the shape of the new A", tuple(big_A.shape), (2 * RANK, IN), likely)
    expect_equal("the shape of the new B", tuple(big_B.shape), (OUT, 2 * RANK), likely)
    expected = SCALING * (B @ A - B0 @ A0)
    yours = float(alpha) / (2 * RANK) * big_B @ big_A
    likely = diagnose(
        yours,
        {
            "a LoRA of rank 2r divides its alpha by 2r: to keep s, alpha must double": expected / 2,
            "alpha is doubled and A or B as well: once is enough": 2 * expected,
            "a minus sign is missing: what was taken out of W must be given back, so B_0 A_0 is subtracted": SCALING
            * (B @ A + B0 @ A0),
            "a minus sign is missing, and alpha is not doubled": SCALING * (B @ A + B0 @ A0) / 2,
            "the signs are the wrong way round: it is B A that is learned": -expected,
            "the halves do not match: if A comes before A_0, then B comes before B_0": SCALING * (B @ A0 - B0 @ A),
            "the halves do not match, and the minus is on the wrong one": SCALING * (B0 @ A - B @ A0),
        },
    )
    expect_close("s B A of the plain LoRA is what training changed, s (B A - B_0 A_0)", yours, expected, likely, 1e-9)
