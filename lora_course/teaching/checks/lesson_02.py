"""Checks of lesson 02, the LoRA layer: counting, initialisation, forward, backward, merging."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

from lora_course.adapters import LoRA
from lora_course.adapters.base import Adapter, weight_view
from lora_course.adapters.config import AdapterConfig
from lora_course.teaching.compare import (
    Wrong,
    diagnose,
    expect_close,
    expect_equal,
    expect_parts,
    expect_subclass,
    expect_untouched,
)
from lora_course.teaching.exercises import exercise

IN, OUT, RANK, ALPHA = 20, 12, 3, 7.0  # all different, so that a swap or a forgotten factor shows
SCALING = ALPHA / RANK


def random_layer(bias: bool = True, dtype: torch.dtype = torch.float64) -> tuple:
    """x (5, in), W (out, in), b (out), A (r, in), B (out, r), all random."""
    shapes = [(5, IN), (OUT, IN), (OUT,), (RANK, IN), (OUT, RANK)]
    return tuple(torch.randn(*shape, dtype=dtype) for shape in shapes)


def count_lora_parameters(in_features: int, out_features: int, rank: int) -> int:
    return rank * (in_features + out_features)


@exercise(
    "02.1",
    title="Count what LoRA trains",
    reference=count_lora_parameters,
    verified="the count is that of a real LoRA layer, for five shapes and ranks",
    minutes=5,
    difficulty=1,
)
def check_count(answer):
    for n_in, n_out, rank in [(IN, OUT, RANK), (768, 768, 8), (768, 3072, 16), (5, 1, 1), (2, 9, 4)]:
        layer = LoRA(nn.Linear(n_in, n_out), AdapterConfig(rank=rank))
        expected = sum(p.numel() for p in layer.parameters() if p.requires_grad)
        yours = answer(n_in, n_out, rank)
        likely = diagnose(
            yours,
            {
                "you counted A only: B has out_features x rank numbers of its own": rank * n_in,
                "you counted B only: A has rank x in_features numbers of its own": rank * n_out,
                "that is the size of the frozen weight, which is not trained": n_in * n_out,
                "you multiplied the sizes of A and B: they are two matrices, add them": rank * n_in * n_out * rank,
                "you added the frozen weight to the count": n_in * n_out + rank * (n_in + n_out),
                "this counts 2 x rank x in_features, right only when in_features = out_features": 2 * rank * n_in,
            },
        )
        expect_equal(f"in {n_in}, out {n_out}, rank {rank}: A and B together hold", yours, expected, likely)


def init_lora(in_features: int, out_features: int, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    layer = LoRA(nn.Linear(in_features, out_features), AdapterConfig(rank=rank))
    return layer.lora_A, layer.lora_B


@exercise(
    "02.2",
    title="Start at the pretrained model",
    reference=init_lora,
    verified="shapes (r, in) and (out, r); both trainable; B A = 0; A spread as kaiming_uniform_(a=sqrt 5) spreads it",
    minutes=10,
    difficulty=2,
)
def check_init(answer):
    n_in, n_out, rank = 400, 60, 4
    result = answer(n_in, n_out, rank)
    expect_parts("init_lora returns the pair A, B", result, "A, B")
    A, B = result
    if not all(isinstance(p, nn.Parameter) for p in (A, B)):
        raise Wrong(
            "A and B are nn.Parameter",
            yours=f"{type(A).__name__} and {type(B).__name__}",
            expected="Parameter and Parameter",
            likely="a plain tensor is not in model.parameters(), so no optimizer would ever see it",
        )
    frozen = [name for name, p in zip("AB", (A, B), strict=True) if not p.requires_grad]
    expect_equal("A and B are trainable: frozen are", frozen, [], "leave requires_grad as nn.Parameter sets it, True")
    swapped = tuple(A.shape) == (n_in, rank) or tuple(B.shape) == (rank, n_out)
    expect_equal(
        "A has shape (rank, in_features)",
        tuple(A.shape),
        (rank, n_in),
        "A and B are transposed: nn.Linear keeps weights as (out, in), and so do A: in -> r and B: r -> out"
        if swapped
        else None,
    )
    expect_equal(
        "B has shape (out_features, rank)",
        tuple(B.shape),
        (n_out, rank),
        "B is transposed: it maps r numbers to out_features numbers, so it is (out, r)" if swapped else None,
    )
    a_zero, b_zero = not A.any(), not B.any()
    if a_zero and b_zero:
        raise Wrong(
            "training can start: A or B gets a gradient",
            yours="A = 0 and B = 0",
            expected="A random, B = 0",
            likely="with both zero, each one's gradient is multiplied by the other: 0 for ever",
        )
    if not (a_zero or b_zero):
        raise Wrong(
            "B A = 0, so that training starts at the pretrained model",
            yours=B @ A,
            expected="a matrix of zeros",
            likely="both are random: before the first step the model is already damaged. Make B zero",
        )
    if a_zero:
        raise Wrong(
            "B is the one that starts at zero",
            yours="A = 0, B random",
            expected="A random, B = 0",
            likely="you zeroed A. B A = 0 this way too, but the paper and every library zero B",
        )
    _check_spread(A)
    other, _ = answer(n_in, n_out, rank)
    if torch.equal(A, other):
        raise Wrong(
            "each layer draws an A of its own",
            yours="the same A in a second call",
            expected="other random numbers",
            likely="torch.manual_seed inside the function starts the generator again, for all that follows: seed "
            "once, at the start of a run",
        )


def _check_spread(A: torch.Tensor) -> None:
    """A (r, in), large enough for its spread to be that of its distribution."""
    rank, n_in = A.shape
    bound = 1 / math.sqrt(n_in)
    largest, spread = A.detach().abs().max().item(), A.detach().std().item()
    mistakes = {
        1.0: "torch.randn alone has spread 1: A x would grow with the width of the layer",
        bound * math.sqrt(2): "kaiming_uniform_ without a=math.sqrt(5) is sqrt(6) times too wide",
        rank**-0.5: "you divided by sqrt(rank): A adds in_features numbers, so its spread goes by in_features",
    }
    named = [text for value, text in mistakes.items() if abs(spread / value - 1) < 0.1]
    likely = (
        named[0] if named else "nn.init.kaiming_uniform_(A, a=math.sqrt(5)) is what nn.Linear does to its own weight"
    )
    if not (largest <= bound * 1.001 and abs(spread - bound / math.sqrt(3)) < 0.03 * bound):
        raise Wrong(
            f"A is uniform in ±1/sqrt(in_features) = ±{bound:.3f}, whose spread is {bound / math.sqrt(3):.4f}",
            yours=f"largest {largest:.3f}, spread {spread:.4f}",
            expected=f"largest below {bound:.3f}, spread about {bound / math.sqrt(3):.4f}",
            likely=likely,
        )


@exercise(
    "02.3",
    title="The layer itself",
    reference=LoRA,
    verified="the base stays frozen; forward is W x + b + (alpha / r) B A dropout(x), with and without dropout "
    "and bias; gradients reach A and B; delta_weight is the change that merging adds; a merged layer adds nothing more",
    minutes=25,
    difficulty=3,
)
def check_layer(answer):
    expect_subclass(answer, Adapter, "LoRALinear")
    config = AdapterConfig(rank=RANK, alpha=ALPHA)
    for bias in (True, False):
        layer = answer(nn.Linear(IN, OUT, bias=bias), config)
        _check_parameters(layer)
        _check_forward(layer)
        _check_merging(layer)
    _check_spread(answer(nn.Linear(1600, OUT), config).lora_A.detach())
    _check_dropout(answer(nn.Linear(IN, OUT), AdapterConfig(rank=RANK, alpha=ALPHA, dropout=0.5)))


def _check_parameters(layer: Adapter) -> None:
    trainable = {name: tuple(p.shape) for name, p in layer.named_parameters() if p.requires_grad}
    expected = {"lora_A": (RANK, IN), "lora_B": (OUT, RANK)}
    likely = None
    if any(name.startswith("base_layer") for name in trainable):
        likely = "the base layer is trained as well: Adapter froze it, something unfroze it"
    elif not trainable:
        likely = "A and B must be attributes made of nn.Parameter: self.lora_A = self.new_parameter(rank, in)"
    elif set(trainable) == set(expected):
        likely = "lora_A is (rank, in_features), lora_B is (out_features, rank)"
    expect_equal("the trainable parameters and their shapes", trainable, expected, likely)
    if layer.lora_B.any() or not layer.lora_A.any():
        raise Wrong(
            "A starts random and B at zero",
            yours=f"A: {'random' if layer.lora_A.any() else 'zero'}, B: {'random' if layer.lora_B.any() else 'zero'}",
            expected="A: random, B: zero",
            likely="use what you wrote in exercise 02.2",
        )


def _check_forward(layer: Adapter) -> None:
    nn.init.normal_(layer.lora_A)
    nn.init.normal_(layer.lora_B)
    layer.double()
    x = torch.randn(2, 5, IN, dtype=torch.float64, requires_grad=True)
    A, B = layer.lora_A, layer.lora_B
    base, branch = layer.base_layer(x), x @ A.T @ B.T
    bias = layer.bias if layer.bias is not None else 0.0
    yours = layer(x)
    likely = diagnose(
        yours,
        {
            "your delta is scaled by alpha, not alpha/rank": base + ALPHA * branch,
            "your delta is scaled by 1/rank: multiply by alpha as well": base + branch / RANK,
            "your delta is not scaled at all: multiply it by alpha/rank": base + branch,
            "your scale is upside down: rank/alpha instead of alpha/rank": base + branch * RANK / ALPHA,
            "your scale is alpha/sqrt(rank): that is rsLoRA, which comes in lesson 07": base
            + branch * ALPHA / RANK**0.5,
            "your scale is the constant 0.01: alpha and rank have no say in it": base + 0.01 * branch,
            "you return the branch alone: add the output of the base layer": SCALING * branch,
            "you return the base layer alone: add the branch": base,
            "the base layer's bias is missing or counted twice": base - bias + SCALING * branch,
            "you scaled the base output along with the branch": SCALING * (base + branch),
        },
    )
    expect_close("forward is W x + b + (alpha / rank) B A x", yours, base + SCALING * branch, likely)
    grads = torch.autograd.grad(yours.square().sum(), [A, B, x], allow_unused=True)
    wanted = torch.autograd.grad((base + SCALING * branch).square().sum(), [A, B, x], retain_graph=True)
    frozen = torch.autograd.grad((base + SCALING * branch.detach()).square().sum(), [x])[0]
    for name, mine, right in zip("ABx", grads, wanted, strict=True):
        if mine is None:
            raise Wrong(
                f"{name} gets a gradient",
                yours="no gradient",
                expected="a gradient",
                likely=f".data, .detach() or no_grad() cuts the graph between the output and {name}",
            )
        likely = "x was detached on its way into A: earlier layers learn through the branch too"
        expect_close(f"the gradient of {name}", mine, right, diagnose(mine, {likely: frozen}))


def _check_merging(layer: Adapter) -> None:
    x = torch.randn(5, IN, dtype=torch.float64, requires_grad=True)
    A, B, before = layer.lora_A, layer.lora_B, layer(x)
    yours = layer.delta_weight()
    likely = diagnose(
        yours,
        {
            "the scale is missing: delta_weight is (alpha / rank) B A": B @ A,
            "scaled by alpha, not alpha/rank": ALPHA * B @ A,
            "that is the whole merged weight; return only the change": layer.weight + SCALING * B @ A,
        },
    )
    expect_close("delta_weight is (alpha / rank) B A", yours, SCALING * B @ A, likely)
    layer.merge()
    merged = layer(x)
    expect_close(
        "a merged layer gives the same output as before",
        merged,
        before,
        "when self.merged is True the change is in W already: return the base output alone",
    )
    if not merged.requires_grad:
        raise Wrong("a merged layer hands the gradient on to x", likely="return the base output as it is, not detached")
    layer.unmerge()


def _check_dropout(layer: Adapter) -> None:
    nn.init.normal_(layer.lora_A)
    nn.init.normal_(layer.lora_B)
    x = torch.randn(64, IN)
    layer.train()
    torch.manual_seed(3)
    yours = layer(x)
    torch.manual_seed(3)
    dropped = F.dropout(x, 0.5)
    branch = lambda v: SCALING * v @ layer.lora_A.T @ layer.lora_B.T  # noqa: E731
    base = layer.base_layer(x)
    torch.manual_seed(3)
    late = F.dropout(branch(x), 0.5)
    likely = diagnose(
        yours,
        {
            "dropout has no effect in training mode: apply it to the branch's input": base + branch(x),
            "dropout reaches the base layer too: only the branch sees the dropped x": layer.base_layer(dropped)
            + branch(dropped),
            "dropout comes after A and B: the paper and the libraries drop x on its way into A": base + late,
        },
    )
    expect_close(
        "in training mode, dropout falls on the branch's input and nowhere else", yours, base + branch(dropped), likely
    )
    layer.eval()
    expect_close(
        "in eval mode nothing is dropped",
        layer(x),
        base + branch(x),
        "use nn.Dropout (a module that follows train() and eval()) or pass training=self.training",
    )


def lora_backward(grad_h, x, A, B, scaling):
    g = scaling * grad_h @ B  # (N, r): what flows back into A x
    return g @ A, g.T @ x, scaling * grad_h.T @ (x @ A.T)


@exercise(
    "02.4",
    title="The backward pass by hand",
    reference=lora_backward,
    verified="all three gradients equal autograd's to 1e-10 in float64",
    minutes=20,
    difficulty=3,
)
def check_backward(answer):
    x, _, _, A, B = random_layer()
    grad_h = torch.randn(5, OUT, dtype=torch.float64)
    before = [t.clone() for t in (grad_h, x, A, B)]
    leaves = [t.clone().requires_grad_() for t in (x, A, B)]
    out = SCALING * leaves[0] @ leaves[1].T @ leaves[2].T
    expected = torch.autograd.grad(out, leaves, grad_h)
    result = answer(grad_h, x, A, B, SCALING)
    expect_parts("lora_backward returns three gradients", result, "grad_x, grad_A, grad_B")
    shapes = [tuple(t.shape) if isinstance(t, torch.Tensor) else None for t in result]
    if shapes == [tuple(A.shape), tuple(B.shape), tuple(x.shape)]:
        raise Wrong(
            "the order is grad_x, grad_A, grad_B",
            yours="grad_A, grad_B, grad_x",
            expected="grad_x, grad_A, grad_B",
            likely="return them in the order of the arguments",
        )
    for name, mine, right in zip(("grad_x", "grad_A", "grad_B"), result, expected, strict=True):
        likely = diagnose(
            mine,
            {
                f"{name} lacks the factor scaling": right / SCALING,
                f"{name} carries scaling twice": right * SCALING,
                f"{name} has the wrong sign": -right,
                f"{name} is averaged over the tokens: the mean, if any, is in grad_h already": right / len(x),
            },
        )
        expect_close(f"{name} equals autograd's", mine, right, likely, atol=1e-10, rtol=1e-10)
    expect_untouched("grad_h, x, A, B", (grad_h, x, A, B), before)


def merge_into(layer: nn.Module, A: torch.Tensor, B: torch.Tensor, scaling: float) -> None:
    with torch.no_grad():
        weight_view(layer).add_(scaling * B @ A)


@exercise(
    "02.5",
    title="Merge, in both layouts",
    reference=merge_into,
    verified="nn.Linear (out, in) and GPT-2's Conv1D (in, out) give the same output as base plus branch; the weight is "
    "changed in place and stays the same Parameter; the bias is left alone",
    minutes=10,
    difficulty=2,
)
def check_merge(answer):
    x, _, _, A, B = random_layer()
    for layer in (
        nn.Linear(IN, OUT).double(),
        Conv1D(OUT, IN).double(),
        nn.Linear(IN, IN).double(),
        Conv1D(IN, IN).double(),
    ):
        kind, square = type(layer).__name__, layer.weight.shape[0] == layer.weight.shape[1]
        low = B if not square else torch.randn(IN, RANK, dtype=torch.float64)
        weight, old, bias = layer.weight, layer.weight.detach().clone(), layer.bias.detach().clone()
        expected = layer(x) + SCALING * x @ A.T @ low.T
        try:
            answer(layer, A, low, SCALING)
        except RuntimeError as error:
            hint = "Conv1D keeps its weight as (in, out): add the transpose of B A" if kind == "Conv1D" else None
            raise Wrong(
                f"merging into a {kind} works",
                yours=f"{type(error).__name__}: {error}",
                expected="no error",
                likely=hint,
            ) from error
        if torch.equal(layer.weight, old):
            raise Wrong(
                f"the weight of the {kind} changes",
                yours="the weight is as it was",
                expected="W + s B A",
                likely="add in place (weight.add_ or +=) under torch.no_grad(): W + ... makes a new tensor "
                "that the layer never sees",
            )
        if layer.weight is not weight:
            raise Wrong(
                "the weight stays the same Parameter",
                yours="a new Parameter",
                expected="the old one, changed",
                likely="a tied layer or an optimizer still holds the old one: add in place instead",
            )
        yours, delta = layer(x), low @ A
        change = layer.weight.detach() - old
        likely = diagnose(
            change,
            {
                "the scale is missing: add scaling * B A": delta if kind == "Linear" else delta.T,
                "subtracted instead of added": -SCALING * (delta if kind == "Linear" else delta.T),
                "the weight was replaced by the change, not increased by it": SCALING
                * (delta if kind == "Linear" else delta.T)
                - old,
            }
            | (
                {
                    "Conv1D keeps its weight as (in, out): add the transpose of B A. With a square weight nothing "
                    "fails, the numbers are just wrong": SCALING * delta
                }
                if square and kind == "Conv1D"
                else {}
            ),
        )
        expect_close(f"the output of the merged {kind} {tuple(layer.weight.shape)}", yours, expected, likely)
        expect_close("the bias stays as it was", layer.bias, bias, "LoRA changes the weight only")
