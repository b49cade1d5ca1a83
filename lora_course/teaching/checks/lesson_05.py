"""Checks of lesson 05, LoRA-FA and VeRA: bytes kept for backward, the projected gradient, VeRA's layer and counts."""

import torch
from torch import nn

from lora_course.adapters import VeRA
from lora_course.adapters.base import Adapter
from lora_course.adapters.config import AdapterConfig
from lora_course.adapters.vera import SharedPair
from lora_course.teaching.compare import Wrong, diagnose, expect_close, expect_equal, expect_parts, expect_subclass
from lora_course.teaching.exercises import exercise

IN, OUT, RANK, ALPHA = 20, 12, 3, 7.0  # all different, so that a swap or a forgotten factor shows
WIDEST_IN, WIDEST_OUT = 26, 17  # of the shared pair


def kept_bytes(method, tokens, in_features, out_features, rank, layers=1):
    kept = {
        "full": tokens * in_features,
        "lora": tokens * in_features + layers * tokens * rank,
        "lora_fa": layers * tokens * rank,
        "vera": layers * tokens * (rank + out_features),
    }
    return 4 * kept[method]


@exercise(
    "05.1",
    title="What the backward pass keeps",
    reference=kept_bytes,
    verified="the bytes of four methods, for one layer and for layers that share their input",
    minutes=12,
    difficulty=2,
)
def check_kept_bytes(answer):
    n, d, k, r = 50, 32, 24, 5
    for method in ("full", "lora", "lora_fa", "vera"):
        for layers in (1, 3):
            expected = kept_bytes(method, n, d, k, r, layers)
            x, low, out = 4 * n * d, 4 * n * r, 4 * n * k
            shared = "x is the same tensor for all layers that share it: count its storage once"
            own_a = "each layer has an A of its own, so A x is kept once for each layer"
            mistakes = {
                "full": {
                    shared: layers * x,
                    "W is a parameter: it is there anyway, and not kept for backward": expected + 4 * layers * d * k,
                },
                "lora": {
                    shared: layers * (x + low),
                    own_a: x + low,
                    "W is frozen under LoRA, but A is trained: its gradient needs x": layers * low,
                    "B's gradient needs A x, which has r entries a token": x,
                    "W is frozen: nothing needs to be kept for its gradient but x": x + layers * (low + out),
                },
                "lora_fa": {
                    own_a: low,
                    "only A's gradient needs x, and LoRA-FA does not train A": x + layers * low,
                },
                "vera": {
                    "lambda_b's gradient needs B(lambda_d * (A x)), which has as many entries as the output": layers
                    * low,
                    "lambda_d's gradient needs A x": layers * out,
                    "A is frozen, so nothing needs x": x + layers * (low + out),
                    "each layer has its own vectors, and keeps what they need": low + out,
                },
            }[method] | {
                "those are numbers; a float32 number takes 4 bytes": expected / 4,
                "A and B are parameters: they are there anyway, and not kept for backward": expected
                + 4 * layers * r * (d + k),
            }
            mistakes = {message: value for message, value in mistakes.items() if value != expected}
            name = f"{method}: {layers} layer{'s' * (layers > 1)} sharing x, tokens {n}, in {d}, out {k}, rank {r}"
            yours = answer(method, n, d, k, r, layers)
            expect_equal(name, yours, expected, diagnose(yours, mistakes))


def project_gradient(grad_B, A, scaling):
    return grad_B @ torch.linalg.inv(A @ A.T) / scaling**2


@exercise(
    "05.2",
    title="The best step that a frozen A allows",
    reference=project_gradient,
    verified="the step dB brings s dB A as near to the gradient of W as torch.linalg.lstsq does",
    minutes=15,
    difficulty=3,
)
def check_projection(answer):
    s = ALPHA / RANK
    A = torch.randn(RANK, IN, dtype=torch.float64)
    G = torch.randn(OUT, IN, dtype=torch.float64)  # the gradient of W
    grad_B, gram = s * G @ A.T, A @ A.T
    nearest = torch.linalg.lstsq(s * A.T, G.T).solution.T  # over dB: |s dB A - G|
    kept = grad_B.clone()
    yours = answer(grad_B, A, s)
    likely = diagnose(
        yours,
        {
            "that is the plain gradient: nothing is projected": kept,
            "the factor 1 / s^2 is missing": nearest * s**2,
            "divided by s once: one s comes from G to grad_B, the other from dB to W": nearest * s,
            "multiplied by s^2 instead of divided": nearest * s**4,
            "multiplied by A A^T: its inverse is needed": kept @ gram / s**2,
            "1 / (A A^T) divides entry by entry; the inverse of a matrix is torch.linalg.inv": kept @ (1 / gram) / s**2,
            "only the diagonal of A A^T is inverted: the rows of A are not orthogonal": kept / gram.diagonal() / s**2,
            "that is a change of W, s dB A; the change of B is asked for": s * nearest @ A,
        },
    )
    expect_close("the step is grad_B (A A^T)^-1 / s^2", yours, nearest, likely, atol=1e-5, rtol=1e-5)
    expect_close("grad_B is left as it was", grad_B, kept, "you changed it in place: make a new tensor")


@exercise(
    "05.3",
    title="A VeRA layer",
    reference=VeRA,
    verified="trains r + out numbers and starts as it should; forward is W x + b + lambda_b * B(lambda_d * A x) "
    "with the first columns and rows of the shared pair; gradients; delta_weight; nothing is added once merged",
    minutes=20,
    difficulty=3,
)
def check_vera_layer(answer):
    expect_subclass(answer, Adapter, "VeRALinear")
    for bias in (True, False):
        pair = SharedPair(RANK, WIDEST_IN, WIDEST_OUT, 0, torch.empty(0))
        layer = answer(nn.Linear(IN, OUT, bias=bias), AdapterConfig("vera", RANK, ALPHA), pair)
        _check_vectors(layer)
        nn.init.normal_(layer.vera_lambda_b), nn.init.normal_(layer.vera_lambda_d)
        layer.double(), pair.double()
        _check_forward(layer, pair)
        _check_merging(layer, pair)


def _check_vectors(layer: Adapter) -> None:
    trainable = {name: tuple(p.shape) for name, p in layer.named_parameters() if p.requires_grad}
    expected = {"vera_lambda_b": (OUT,), "vera_lambda_d": (RANK,)}
    likely = None
    if trainable == {"vera_lambda_b": (RANK,), "vera_lambda_d": (OUT,)}:
        likely = "the two lengths are swapped: lambda_d scales the r numbers A x, lambda_b the output"
    elif any(len(shape) > 1 for shape in trainable.values()):
        likely = "a matrix is trained: A and B stay as they were drawn, for the whole model"
    elif not trainable:
        likely = "make both vectors with self.new_parameter(length), so that they are parameters"
    expect_equal("the trainable parameters and their shapes", dict(sorted(trainable.items())), expected, likely)
    d, b = layer.vera_lambda_d.detach(), layer.vera_lambda_b.detach()
    if not d.any():
        raise Wrong(
            "lambda_d starts at 0.1",
            yours=d,
            expected=torch.full((RANK,), 0.1),
            likely="both vectors at zero: each one's gradient is multiplied by the other, so neither ever moves"
            if not b.any()
            else "the zero belongs to lambda_b",
        )
    expect_close(
        "lambda_b starts at 0, so that training begins at the pretrained model",
        b,
        torch.zeros(OUT),
        "B(lambda_d * (A x)) is added at full size before the first step: the pretrained layer is drowned",
    )
    expect_close("lambda_d starts at 0.1", d, torch.full((RANK,), 0.1), "the paper's start is 0.1 for each entry")


def _check_forward(layer: Adapter, pair: SharedPair) -> None:
    x = torch.randn(2, 5, IN, dtype=torch.float64, requires_grad=True)
    alone = _ignores(pair, layer, x)  # before there is a graph, since it changes the pair for a moment
    A, B, d, b = pair.A[:, :IN], pair.B[:OUT], layer.vera_lambda_d, layer.vera_lambda_b
    base, low = layer.base_layer(x), x @ A.T
    branch = b * ((d * low) @ B.T)
    bias = layer.bias if layer.bias is not None else 0.0
    yours = layer(x)
    last = b * ((d * (x @ pair.A[:, -IN:].T)) @ pair.B[-OUT:].T)
    likely = diagnose(
        yours,
        {
            "VeRA has no alpha / rank: the two vectors are the scale": base + ALPHA / RANK * branch,
            "lambda_d is missing: it scales the r numbers A x": base + b * (low @ B.T),
            "lambda_b is missing: it scales the output of B": base + (d * low) @ B.T,
            "both vectors are missing": base + low @ B.T,
            "you return the branch alone: add the output of the base layer": branch,
            "you return the base layer alone: add the branch": base,
            "the base layer's bias is missing or counted twice": base - bias + branch,
            "a layer takes the first columns of A and the first rows of B, not the last": base + last,
        },
    )
    if alone and likely is None:
        likely = "the layer uses matrices of its own: all layers share the pair that they are given"
    expect_close("forward is W x + b + lambda_b * B(lambda_d * A x)", yours, base + branch, likely)
    grads = torch.autograd.grad(yours.square().sum(), [b, d, x], allow_unused=True)
    wanted = torch.autograd.grad((base + branch).square().sum(), [b, d, x], retain_graph=True)
    frozen = torch.autograd.grad((base + branch.detach()).square().sum(), [x])[0]
    for name, mine, right in zip(("lambda_b", "lambda_d", "x"), grads, wanted, strict=True):
        if mine is None:
            raise Wrong(
                f"{name} gets a gradient",
                yours="no gradient",
                expected="a gradient",
                likely=f".data, .detach() or no_grad() cuts the graph between the output and {name}",
            )
        likely = "x was detached on its way into A: earlier layers learn through the branch too"
        expect_close(f"the gradient of {name}", mine, right, diagnose(mine, {likely: frozen}))


@torch.no_grad()
def _ignores(pair: SharedPair, layer: Adapter, x: torch.Tensor) -> bool:
    """Whether the layer's output stays the same when the pair changes."""
    outputs = []
    for _ in range(2):
        pair.A.neg_()  # twice: as it was
        outputs.append(layer(x))
    return all(isinstance(y, torch.Tensor) for y in outputs) and torch.equal(*outputs)


def _check_merging(layer: Adapter, pair: SharedPair) -> None:
    x = torch.randn(5, IN, dtype=torch.float64, requires_grad=True)
    A, B = pair.A[:, :IN], pair.B[:OUT]
    d, b, before = layer.vera_lambda_d.detach(), layer.vera_lambda_b.detach()[:, None], layer(x)
    expected = (b * B * d) @ A
    yours = layer.delta_weight()
    likely = diagnose(
        yours,
        {
            "lambda_d is missing": b * (B @ A),
            "lambda_b is missing": (B * d) @ A,
            "both vectors are missing": B @ A,
            "VeRA has no alpha / rank": ALPHA / RANK * expected,
            "that is the whole merged weight; return only the change": layer.weight + expected,
        },
    )
    expect_close("delta_weight is (lambda_b * B) (lambda_d * A), row by row", yours, expected, likely)
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


def count_vera(shapes, rank):
    trained = sum(rank + n_out for n_in, n_out in shapes)
    widest_in, widest_out = max(n_in for n_in, _ in shapes), max(n_out for _, n_out in shapes)
    return trained, rank * (widest_in + widest_out)


@exercise(
    "05.4",
    title="Count VeRA, trained and frozen",
    reference=count_vera,
    verified="both counts are those of a model of three and of one layer with VeRA injected",
    minutes=8,
    difficulty=2,
)
def check_count(answer):
    for shapes, rank in (([(20, 12), (12, 30), (20, 12)], 5), ([(9, 4)], 7)):
        layers = nn.ModuleDict({f"layer{i}": nn.Linear(n_in, n_out) for i, (n_in, n_out) in enumerate(shapes)})
        pair = VeRA.prepare(layers, dict(layers.items()), AdapterConfig("vera", rank))["pair"]
        vera = [VeRA(layer, AdapterConfig("vera", rank), pair) for layer in layers.values()]
        trained = sum(p.numel() for layer in vera for p in layer.parameters() if p.requires_grad)
        frozen = pair.A.numel() + pair.B.numel()
        result = answer(shapes, rank)
        expect_parts("count_vera returns two counts", result, "trained, frozen random")
        yours_trained, yours_frozen = result
        ins, outs = [n_in for n_in, _ in shapes], [n_out for _, n_out in shapes]
        likely = diagnose(
            yours_trained,
            {
                "that counts LoRA's A and B: VeRA trains two vectors a layer": rank * (sum(ins) + sum(outs)),
                "lambda_b has as many entries as the layer's output, not its input": len(shapes) * rank + sum(ins),
                "lambda_d belongs to each layer: only the matrices are shared": rank + sum(outs),
                "lambda_d is missing: r for each layer": sum(outs),
                "lambda_b is missing: out for each layer": len(shapes) * rank,
                "that is one layer: sum over all of them": rank + outs[0],
                "the two counts are in the other order": frozen,
            },
        )
        expect_equal(f"numbers trained in layers of (in, out) {shapes}, rank {rank}", yours_trained, trained, likely)
        likely = diagnose(
            yours_frozen,
            {
                "that is a pair for every layer: one pair, as wide as the widest, serves all": rank
                * (sum(ins) + sum(outs)),
                "widest input and widest output may belong to two layers": rank
                * max(n_in + n_out for n_in, n_out in shapes),
                "that is the pair of the first layer, too small for the widest": rank * (ins[0] + outs[0]),
                "A is missing": rank * max(outs),
                "B is missing": rank * max(ins),
                "A is (r, widest in) and B (widest out, r): add their sizes": rank * max(ins) * rank * max(outs),
            },
        )
        expect_equal(f"frozen random numbers for layers {shapes}, rank {rank}", yours_frozen, frozen, likely)
