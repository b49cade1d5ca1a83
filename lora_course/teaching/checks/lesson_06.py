"""Checks of lesson 06, LoRA+ and Delta-LoRA: Adam's step, LoRA+'s groups, a base that follows."""

import torch
from torch import nn

from lora_course.adapters import DeltaLoRA
from lora_course.adapters.config import AdapterConfig
from lora_course.adapters.inject import inject
from lora_course.adapters.optimizers import EMBEDDING_LR, make_optimizer
from lora_course.teaching.compare import Wrong, diagnose, expect_close, expect_equal, expect_parts
from lora_course.teaching.exercises import exercise

IN, OUT, RANK, ALPHA = 20, 12, 3, 7.0  # all different, so that a swap or a forgotten factor shows
SCALING, LAM = ALPHA / RANK, 0.4


def adam_step(p, grad, m, v, step, lr, betas=(0.9, 0.999), eps=1e-8):
    beta1, beta2 = betas
    m = beta1 * m + (1 - beta1) * grad
    v = beta2 * v + (1 - beta2) * grad**2
    return p - lr * (m / (1 - beta1**step)) / ((v / (1 - beta2**step)).sqrt() + eps), m, v


@exercise(
    "06.1",
    title="One step of Adam",
    reference=adam_step,
    verified="the parameters after four steps are those of torch.optim.Adam, and both averages are right",
    minutes=15,
    difficulty=2,
)
def check_adam(answer):
    lr, (b1, b2), eps, steps = 0.05, (0.8, 0.95), 0.01, 4
    grads = torch.randn(steps, OUT, RANK, dtype=torch.float64)
    parameter = nn.Parameter(torch.randn(OUT, RANK, dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], lr=lr, betas=(b1, b2), eps=eps)
    m = v = torch.zeros(OUT, RANK, dtype=torch.float64)
    for step, grad in enumerate(grads, 1):
        p = parameter.detach().clone()
        parameter.grad = grad.clone()
        optimizer.step()
        result = answer(p.clone(), grad.clone(), m.clone(), v.clone(), step, lr, (b1, b2), eps)
        expect_parts("adam_step returns the new parameter and both averages", result, "p, m, v")
        _, new_m, new_v = adam_step(p, grad, m, v, step, lr, (b1, b2), eps)
        _check_averages(result, new_m, new_v, grad, m, v, (b1, b2))
        if step > 1:  # in the first step too many mistakes look alike
            size, length = new_m / (1 - b1**step), (new_v / (1 - b2**step)).sqrt()
            likely = diagnose(
                result[0],
                {
                    "the sign: a step goes against the gradient": p + lr * size / (length + eps),
                    "neither average is corrected for its start at 0": p - lr * new_m / (new_v.sqrt() + eps),
                    "v is not corrected for its start at 0": p - lr * size / (new_v.sqrt() + eps),
                    "m is not corrected for its start at 0": p - lr * new_m / (length + eps),
                    "the correction uses step - 1: the first step has number 1": p
                    - lr * new_m / (1 - b1 ** (step - 1)) / ((new_v / (1 - b2 ** (step - 1))).sqrt() + eps),
                    "eps stands under the root: it is added after the root is taken": p
                    - lr * size / (length**2 + eps).sqrt(),
                    "the root of v is missing": p - lr * size / (length**2 + eps),
                    "that is plain gradient descent": p - lr * grad,
                    "eps is missing": p - lr * size / length,
                    "that is the step alone: subtract it from p": lr * size / (length + eps),
                },
            )
            expect_close(f"p after step {step} is that of torch.optim.Adam", result[0], parameter, likely, atol=1e-7)
        m, v = new_m, new_v


def _check_averages(result, new_m, new_v, grad, m, v, betas) -> None:
    (b1, b2), (_, mine_m, mine_v) = betas, result
    likely = diagnose(
        mine_m,
        {
            "the weights are the wrong way round: the old average counts beta1, the gradient 1 - beta1": (1 - b1) * m
            + b1 * grad,
            "the old average is returned": m,
            "you corrected m in place: the average goes on uncorrected": new_m / (1 - b1),
            "that is the gradient: average it with m": grad,
            "m averages with beta1, v with beta2": b2 * m + (1 - b2) * grad,
        },
    )
    expect_close("m is beta1 m + (1 - beta1) grad", mine_m, new_m, likely)
    likely = diagnose(
        mine_v,
        {
            "v averages the squared gradient": b2 * v + (1 - b2) * grad,
            "v averages the square, not the absolute value": b2 * v + (1 - b2) * grad.abs(),
            "the weights are the wrong way round: the old average counts beta2": (1 - b2) * v + b2 * grad**2,
            "v averages with beta2": b1 * v + (1 - b1) * grad**2,
            "the square is taken of (1 - beta2) as well": b2 * v + ((1 - b2) * grad) ** 2,
        },
    )
    expect_close("v is beta2 v + (1 - beta2) grad^2", mine_v, new_v, likely)


class Small(nn.Module):
    """One parameter of every kind that LoRA+ tells apart."""

    def __init__(self, method: str):
        super().__init__()
        self.embed, self.query = nn.Embedding(11, 6), nn.Linear(6, 10)
        self.norm, self.classifier = nn.LayerNorm(10), nn.Linear(10, 2)
        targets = ["query"] if method == "dora" else ["embed", "query"]
        config = AdapterConfig(method, RANK, ALPHA, targets, trainable=["norm", "classifier"])
        inject(self, config)


def lora_plus_groups(model, lr, ratio, weight_decay):
    return make_optimizer(model, lr, method="lora_plus", weight_decay=weight_decay, ratio=ratio).param_groups


@exercise(
    "06.2",
    title="LoRA+ as parameter groups",
    reference=lora_plus_groups,
    verified="learning rate and weight decay of every parameter are those of make_optimizer(method='lora_plus'), which "
    "are PEFT's, for LoRA with an adapted embedding and for DoRA; each trained parameter once, no frozen one",
    minutes=20,
    difficulty=3,
)
def check_groups(answer):
    lr, ratio, decay = 2e-3, 5.0, 0.03
    for method in ("lora", "dora"):
        model = Small(method)
        names = {id(p): name for name, p in model.named_parameters()}
        right = _settings(lora_plus_groups(model, lr, ratio, decay), names)
        groups = _as_groups(answer(model, lr, ratio, decay))
        there = [id(p) for group in groups for p in group["params"]]
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad and id(p) in there]
        if frozen:
            raise Wrong(
                "no frozen parameter is in a group",
                yours=frozen,
                expected=[],
                likely="skip what has requires_grad False: the optimizer would keep state for it, or decay it",
            )
        twice = sorted({names[i] for i in there if there.count(i) > 1})
        expect_equal("no parameter is in two groups", twice, [], "test the cases in order, with elif")
        missing = sorted(set(right) - {names[i] for i in there})
        likely = "a parameter in no group is never trained"
        if any(name.startswith(("norm", "classifier")) for name in missing):
            likely = "the head and the norms are trained too, and belong into a group"
        expect_equal("every trained parameter is in a group: missing are", missing, [], likely)
        mine = _settings(groups, names)
        for name, (right_lr, right_decay) in right.items():
            yours_lr, yours_decay = mine[name]
            expect_close(
                f"the learning rate of {name}", yours_lr, right_lr, _likely_rate(name, yours_lr, lr, ratio), atol=1e-12
            )
            likely = "biases and layer norms are not decayed" if not right_decay else None
            if right_decay and not yours_decay:
                likely = "of the fast ones, only biases and layer norms go without decay"
            expect_close(f"the weight decay of {name}", yours_decay, right_decay, likely, atol=1e-12)


def _as_groups(result) -> list[dict]:
    ok = isinstance(result, list | tuple) and result and all(isinstance(g, dict) and "params" in g for g in result)
    if not ok:
        raise Wrong(
            "lora_plus_groups returns a list of groups",
            yours=result,
            expected='[{"params": [...], "lr": ..., "weight_decay": ...}, ...]',
        )
    groups = [group | {"params": list(group["params"])} for group in result]
    for group in groups:
        if group["params"] and not {"lr", "weight_decay"} <= set(group):
            raise Wrong(
                "each group says its own lr and weight_decay",
                yours=sorted(group),
                expected="params, lr, weight_decay",
                likely="what a group does not say, the optimizer fills in with its default",
            )
    return groups


def _settings(groups, names) -> dict[str, tuple[float, float]]:
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def _likely_rate(name: str, yours, lr: float, ratio: float) -> str | None:
    if name.startswith("embed."):
        return f"the adapters of embeddings have a learning rate of their own, {EMBEDDING_LR:g}"
    if "lora_A" in name:
        return "A learns at lr: it is B that is fast"
    if "lora_B" in name:
        rates = {
            "B learns `ratio` times as fast as A": lr,
            "the ratio is not a learning rate: multiply it by lr": ratio,
            "divided by the ratio: B learns faster, not slower": lr / ratio,
            "that is lr plus the ratio: multiply": lr + ratio,
        }
        return diagnose(torch.tensor(yours).log(), {text: torch.tensor(rate).log() for text, rate in rates.items()})
    if name == "classifier.weight":
        return "the head's weight is a matrix, and no B: it learns at lr"
    return "everything with one dimension learns as fast as B"


@torch.no_grad()
def delta_update(W, A, B, old_A, old_B, scaling, lam):
    W += lam * scaling * (B @ A - old_B @ old_A)


def _two_states() -> tuple:
    shapes = [(OUT, IN), (RANK, IN), (OUT, RANK), (RANK, IN), (OUT, RANK)]
    return tuple(torch.randn(*shape, dtype=torch.float64) for shape in shapes)


@exercise(
    "06.3",
    title="The base follows",
    reference=delta_update,
    verified="W changes in place by lam * s * (B A - B_old A_old), as in the package; A and B stay as they are",
    minutes=10,
    difficulty=2,
)
def check_update(answer):
    W, A, B, old_A, old_B = _two_states()
    layer = DeltaLoRA(nn.Linear(IN, OUT).double(), AdapterConfig("delta_lora", RANK, ALPHA)).double()
    for tensor, value in ((layer.lora_A, A), (layer.lora_B, B), (layer.start_A, old_A), (layer.start_B, old_B)):
        tensor.data.copy_(value)
    layer.lam.fill_(LAM)
    expected = layer.drift()
    frozen = nn.Parameter(W.clone(), requires_grad=False)
    arguments = [nn.Parameter(A.clone()), nn.Parameter(B.clone()), old_A.clone(), old_B.clone()]
    answer(frozen, *arguments, SCALING, LAM)
    yours, now = frozen.detach() - W, B @ A
    if frozen.requires_grad or frozen.grad_fn is not None:
        raise Wrong(
            "W is still a frozen leaf",
            yours="W hangs on the graph of A and B",
            expected="a plain change of its values",
            likely="update under torch.no_grad(): each step would keep the graph of the one before",
        )
    likely = diagnose(
        yours,
        {
            "W did not change: change it in place, with W += or W.add_, under torch.no_grad()": torch.zeros_like(W),
            "lam is missing": expected / LAM,
            "the scaling is missing": expected / SCALING,
            "lam and the scaling are both missing": expected / LAM / SCALING,
            "the sign: W follows what the adapter does now, so new minus old": -expected,
            "that adds the whole adapter, not its change in this step": LAM * SCALING * now,
            "the product of the differences is not the difference of the products": LAM
            * SCALING
            * ((B - old_B) @ (A - old_A)),
            "W was replaced by the change, not increased by it": expected - W,
            "A has changed too: (B - B_old) A leaves its part out": LAM * SCALING * ((B - old_B) @ A),
        },
    )
    expect_close("W changes by lam * s * (B A - B_old A_old)", yours, expected, likely, atol=1e-9)
    for name, mine, right in zip(("A", "B", "old A", "old B"), arguments, (A, B, old_A, old_B), strict=True):
        expect_close(f"{name} stays as it was", mine, right)


def telescope(A, B, start_A, start_B, lam):
    return torch.cat([A, start_A]), torch.cat([(1 + lam) * B, -lam * start_B], dim=1)


@exercise(
    "06.4",
    title="The sum telescopes",
    reference=telescope,
    verified="the plain LoRA has rank 2 r and changes W_0 exactly as much as adapter and drift together",
    minutes=15,
    difficulty=3,
)
def check_telescope(answer):
    _, A, B, start_A, start_B = _two_states()
    layer = DeltaLoRA(nn.Linear(IN, OUT).double(), AdapterConfig("delta_lora", RANK, ALPHA)).double()
    for tensor, value in ((layer.lora_A, A), (layer.lora_B, B), (layer.start_A, start_A), (layer.start_B, start_B)):
        tensor.data.copy_(value)
    layer.lam.fill_(LAM)
    expected = layer.delta_weight().detach() / SCALING
    result = answer(A.clone(), B.clone(), start_A.clone(), start_B.clone(), LAM)
    expect_parts("telescope returns the two matrices of a plain LoRA", result, "A', B'")
    shapes = [tuple(t.shape) if isinstance(t, torch.Tensor) else None for t in result]
    if shapes == [(OUT, 2 * RANK), (2 * RANK, IN)]:
        raise Wrong("the order is A', B'", yours="B', A'", expected="A', B'", likely="swap the two")
    likely = None
    if shapes == [(RANK, IN), (OUT, RANK)]:
        likely = "with rank r there is no room for the start: B A needs one pair of rank r, B_K A_K another"
    elif None not in shapes and shapes[0] != (2 * RANK, IN):
        likely = "stack the two A on top of each other: torch.cat([...]) along dimension 0"
    elif None not in shapes:
        likely = "put the two B side by side: torch.cat([...], dim=1)"
    expect_equal("A' is (2 r, in) and B' is (out, 2 r)", shapes, [(2 * RANK, IN), (OUT, 2 * RANK)], likely)
    now, before = B @ A, start_B @ start_A
    product = result[1] @ result[0]
    likely = diagnose(
        product,
        {
            "that is the drift of W alone: the adapter is still there, so B A counts 1 + lam": LAM * (now - before),
            "the start is subtracted, not added: W follows the change since step K": (1 + LAM) * now + LAM * before,
            "the start counts lam, and nothing else": (1 + LAM) * now - before,
            "the start counts lam, not 1 + lam: only the drift knows it": (1 + LAM) * (now - before),
            "B A counts 1 + lam: once as the adapter and lam times in W": now - LAM * before,
            "1 + lam and lam belong into B' or into A', not into both": (1 + LAM) ** 2 * now - LAM**2 * before,
            "in B', lam at the start must be negative once: two minus signs cancel": (1 + LAM) ** 2 * now
            + LAM**2 * before,
            "lam is missing": 2 * now - before,
        },
    )
    expect_close("B' A' is B A + lam (B A - B_K A_K)", product, expected, likely, atol=1e-9)


