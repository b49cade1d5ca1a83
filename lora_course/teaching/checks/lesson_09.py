"""Checks of lesson 09, memory: the fixed bill, what autograd keeps, the loss in chunks, a block computed twice."""

import torch
import torch.nn.functional as F
from torch import nn

from lora_course.memory.chunking import chunked_cross_entropy
from lora_course.memory.live import LiveBytes
from lora_course.teaching.compare import Wrong, diagnose, expect_close, expect_equal, expect_parts, expect_untouched
from lora_course.teaching.exercises import exercise
from lora_course.teaching.tensor_sizes import TensorSizes

MOMENTS = {"sgd": 0, "momentum": 1, "adamw": 2}


def fixed_bytes(frozen, trained, base_bytes=4, optimizer="adamw"):
    gradients = 4 * trained
    return base_bytes * frozen + 4 * trained, gradients, MOMENTS[optimizer] * gradients


@exercise(
    "09.1",
    title="The part of the bill that needs no measuring",
    reference=fixed_bytes,
    verified="weights, gradients and optimizer state for three optimizers and for bases of 4, 2 and half a byte",
    minutes=8,
    difficulty=1,
)
def check_fixed_bytes(answer):
    frozen, trained = 7000, 300
    both = frozen + trained
    for base_bytes, optimizer in ((4, "adamw"), (4, "sgd"), (4, "momentum"), (2, "adamw"), (0.5, "adamw")):
        expected = fixed_bytes(frozen, trained, base_bytes, optimizer)
        case = f"{frozen} frozen numbers of {base_bytes} bytes, {trained} trained, {optimizer}"
        yours = answer(frozen, trained, base_bytes, optimizer)
        expect_parts("fixed_bytes returns three sizes", yours, "weights, gradients, optimizer state")
        weights, gradients, state = yours
        likely = diagnose(
            weights,
            {
                "those are numbers; each takes bytes": both,
                "the trained weights are there too": base_bytes * frozen,
                "what is trained stays in float32, 4 bytes, however small the base is stored": base_bytes * both,
                "the base is stored in base_bytes bytes a number": 4 * both,
            },
        )
        expect_equal(f"weights: {case}", weights, expected[0], likely)
        likely = diagnose(
            gradients,
            {
                "those are numbers; a float32 gradient takes 4 bytes": trained,
                "a frozen number has no gradient": 4 * both,
                "a frozen number has no gradient, and a gradient is in float32": base_bytes * both,
                "a gradient has the dtype of what is trained, float32": base_bytes * trained,
            },
        )
        expect_equal(f"gradients: {case}", gradients, expected[1], likely)
        likely = diagnose(
            state,
            {
                "Adam keeps two numbers for each trained one: means of gradients and of their squares": 4 * trained,
                "the optimizer knows the trained numbers only": MOMENTS[optimizer] * 4 * both,
                "that is Adam's state, but other optimizers keep less": 8 * trained,
                "those are numbers; each takes 4 bytes": MOMENTS[optimizer] * trained,
                "the weights themselves are in the first size already": (MOMENTS[optimizer] + 1) * 4 * trained,
            },
        )
        expect_equal(f"optimizer state: {case}", state, expected[2], likely)


def saved_sizes(run, own):
    kept = {}
    not_counted = {tensor.untyped_storage().data_ptr() for tensor in own}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in not_counted:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return [storage.nbytes() for storage in kept.values()]


@exercise(
    "09.2",
    title="What autograd keeps",
    reference=saved_sizes,
    verified="each storage once and whole, whatever view of it is saved; weights left out; every dtype by its size; "
    "the backward pass still works",
    minutes=20,
    difficulty=3,
)
def check_saved_sizes(answer):
    n, d, k = 10, 6, 4
    first, second = torch.randn(k, d, requires_grad=True), torch.randn(k, d, requires_grad=True)
    table = torch.randn(9, k, requires_grad=True)
    x, ids = torch.randn(n, d, requires_grad=True), torch.randint(9, (n,))
    far = torch.rand(n, k) > 0.5
    runs = {
        "two layers that read the same x": lambda: (x @ first.T).exp().sum() + (x @ second.T).exp().sum(),
        "a layer that reads all rows of x, and one that reads x[3:]": lambda: (x @ first.T).exp().sum()
        + (x[3:] @ second.T).exp().sum(),
        "a layer that reads x[3:] alone": lambda: (x[3:] @ first.T).exp().sum(),
        "an embedding and a mask": lambda: F.embedding(ids, table).masked_fill(far, 0.0).exp().sum(),
    }
    for name, compute in runs.items():
        _check_one_run(answer, name, compute, [first, second, table])


def _check_one_run(answer, name, compute, own):
    results = []

    def run():
        results.append(compute())
        return results[-1]

    expected, everything = saved_sizes(run, own), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (everything.append(t), t)[1], lambda t: t):
        compute()
    results.clear()
    yours = answer(run, own)
    if not results:
        raise Wrong("run() is called", yours="it never is", expected="a call inside saved_tensors_hooks")
    for p in own:
        p.grad = None
    try:
        results[-1].backward()
    except Exception as error:
        raise Wrong(
            f"the backward pass still works: {name}",
            yours=f"{type(error).__name__}: {error}",
            expected="gradients",
            likely="what the first hook returns is handed to the second, and what that returns must be the tensor",
        ) from None
    weights = {p.untyped_storage().data_ptr() for p in own}
    others = [t for t in everything if t.untyped_storage().data_ptr() not in weights]
    by_address = {t.data_ptr(): t for t in others}.values()
    whole = {t.untyped_storage().data_ptr(): t for t in others}.values()
    with_weights = {t.untyped_storage().data_ptr(): t for t in everything}.values()
    likely = diagnose(
        yours,
        {
            "a view has an address of its own: ask its untyped_storage() for data_ptr()": _whole(by_address),
            "every save is counted: the same storage may be saved several times": _whole(others),
            "every save is counted, a view by itself: count each storage once, and whole": [t.nbytes for t in others],
            "weights are counted: leave out the storages of `own`": _whole(with_weights),
            "weights are counted, and every save of the same storage": _whole(everything),
            "a view keeps its whole storage alive: count untyped_storage().nbytes()": [t.nbytes for t in whole],
            "views are counted by themselves: a view keeps its whole storage, and two views share one": [
                t.nbytes for t in by_address
            ],
            "not every number takes 4 bytes: indices take 8, a mask 1": [4 * t.numel() for t in whole],
            "those are numbers, not bytes": [t.numel() for t in whole],
            "return the sizes one by one, not their sum": sum(expected),
        },
    )
    expect_equal(f"bytes of each storage that is kept: {name}", yours, expected, likely)


def _whole(tensors):
    return [t.untyped_storage().nbytes() for t in tensors]


def chunked_loss(hidden, weight, labels, chunk):
    hidden = hidden.detach().requires_grad_()
    with torch.enable_grad():  # also where it is called from inside an autograd Function
        loss = chunked_cross_entropy(hidden, weight.detach(), labels, chunk=chunk)
    return loss.detach(), torch.autograd.grad(loss, hidden)[0]


@exercise(
    "09.3",
    title="A loss without its logits",
    reference=chunked_loss,
    verified="loss and gradient are those of F.cross_entropy, with ignored labels and a last chunk that is smaller; "
    "large logits do not overflow; no tensor is larger than one chunk of logits",
    minutes=25,
    difficulty=3,
)
def check_chunked_loss(answer):
    tokens, d, vocabulary, chunk = 50, 20, 150, 16
    hidden = torch.randn(tokens, d, dtype=torch.float64)
    weight = torch.randn(vocabulary, d, dtype=torch.float64)
    labels = torch.randint(vocabulary, (tokens,))
    labels[3:14], labels[40], labels[0], labels[1] = -100, -100, 0, vocabulary - 1
    for scale in (1.0, 1e4):
        _check_loss(answer, scale * hidden, weight, labels, chunk)
    _check_loss(answer, hidden, weight[:9], labels % 9, chunk)  # fewer words than tokens
    none_here = labels.clone()
    none_here[chunk : 2 * chunk] = -100
    loss, _ = answer(hidden, weight, none_here, chunk)
    if not bool(torch.as_tensor(loss).isfinite()):
        raise Wrong(
            "a chunk may hold no target at all",
            yours=loss,
            expected=F.cross_entropy(hidden @ weight.T, none_here),
            likely="the mean over no target is 0 / 0: add up the losses of each chunk, and divide by all targets",
        )
    _check_loss(answer, hidden, weight, none_here, chunk)
    with TensorSizes(hidden, weight, labels) as made:
        answer(hidden, weight, labels, chunk)
    if made.largest > tokens * vocabulary / 2:
        whole = f"all {tokens * vocabulary} logits at once" if made.largest >= tokens * vocabulary else ""
        raise Wrong(
            "no tensor is larger than the logits of one chunk",
            yours=f"one of {made.largest} numbers" + (f": {whole}" if whole else ""),
            expected=f"at most {chunk} x {vocabulary} = {chunk * vocabulary}",
            likely="multiply hidden[start : start + chunk] by weight.T inside the loop",
        )


def _check_loss(answer, hidden, weight, labels, chunk):
    counted = labels != -100
    logits = hidden @ weight.T
    onehot = F.one_hot(labels.where(counted, 0), len(weight)) * counted[:, None]
    p = logits.softmax(-1) * counted[:, None]
    targets = counted.sum()
    losses = F.cross_entropy(logits, labels, reduction="none")
    loss, grad = losses.sum() / targets, (p - onehot) @ weight / targets
    tail = len(hidden) // chunk * chunk
    parts = [F.cross_entropy(z, y) for z, y in zip(logits.split(chunk), labels.split(chunk), strict=True)]
    wrapped = labels % len(weight)
    kept = hidden.clone(), weight.clone(), labels.clone()
    result = answer(hidden, weight, labels, chunk)
    expect_parts("chunked_loss returns two things", result, "loss, grad_hidden")
    yours, yours_grad = result
    overflow = "exp overflows: subtract the largest logit of each token first, or use logsumexp"
    likely = diagnose(
        yours,
        {
            "that is the sum over the targets: divide by their number": losses.sum(),
            "labels of -100 are no targets: divide by the number of the others": losses.sum() / len(labels),
            "a mean of the chunks' means: chunks with fewer targets would count too much": torch.stack(parts).mean(),
            "a sum of the chunks' means": torch.stack(parts).sum(),
            "labels of -100 were used as an index, counted from the end": F.cross_entropy(logits, wrapped),
            "the last chunk is smaller, and is missing": losses[:tail].sum() / targets,
            "the last chunk is smaller, and is missing, also in the number of targets": losses[:tail].sum()
            / counted[:tail].sum(),
            "the sign: the loss is logsumexp minus the target's logit": -loss,
            "the logit of the target is missing": (logits.logsumexp(-1) * counted).sum() / targets,
        },
    )
    if likely is None and isinstance(yours, torch.Tensor) and not yours.isfinite().all():
        likely = overflow
    expect_close("the loss is F.cross_entropy's", yours, loss, likely, atol=0, rtol=1e-6)
    late = grad.clone()
    late[tail:] = 0
    likely = diagnose(
        yours_grad,
        {
            "the mean's 1 / targets is missing": grad * targets,
            "divided by all tokens, not by the targets": grad * targets / len(labels),
            "the one-hot part is missing: softmax(z) - onehot(target)": p @ weight / targets,
            "the sign: softmax(z) - onehot(target), not the other way round": -grad,
            "tokens whose label is -100 have no gradient": (logits.softmax(-1) - onehot) @ weight / targets,
            "the last chunk is smaller, and is missing": late,
            "softmax is taken over the tokens: dim=-1 is the vocabulary": (
                (logits.softmax(0) * counted[:, None] - onehot) @ weight / targets
            ),
        },
    )
    if likely is None and isinstance(yours_grad, torch.Tensor) and not yours_grad.isfinite().all():
        likely = overflow
    expect_close("the gradient of hidden", yours_grad, grad, likely, atol=1e-10, rtol=1e-8)
    expect_untouched("hidden, weight, labels", (hidden, weight, labels), kept)


class Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, block):
        ctx.block, ctx.random = block, torch.get_rng_state()
        ctx.save_for_backward(x)
        return block(x)

    @staticmethod
    def backward(ctx, grad):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.set_rng_state(ctx.random)
            y = ctx.block(x)
        y.backward(grad)
        return x.grad, None


@exercise(
    "09.4",
    title="A block that is computed twice",
    reference=Recompute,
    verified="output, gradient of x and gradients of the parameters are the plain block's, with dropout; between the "
    "passes x alone is kept; the random numbers go on as if nothing had been computed twice",
    minutes=25,
    difficulty=3,
)
def check_recompute(answer):
    if not (isinstance(answer, type) and issubclass(answer, torch.autograd.Function)):
        raise Wrong(
            "Recompute is an autograd Function",
            yours=answer,
            expected="class Recompute(torch.autograd.Function): ...",
            likely="pass the class itself to check",
        )
    tokens, d, inner = 64, 20, 200
    for dropout in (0.0, 0.5):
        block = nn.Sequential(nn.Linear(d, inner), nn.Tanh(), nn.Dropout(dropout), nn.Linear(inner, d)).double()
        start = torch.randn(tokens, d, dtype=torch.float64, requires_grad=True)
        arrives = torch.randn(tokens, d, dtype=torch.float64)
        plain = _passes(lambda x, block=block: block(x), block, start, arrives)
        ones = _passes(lambda x, block=block: block(x), block, start, torch.ones_like(arrives))
        again = _passes(lambda x, block=block: answer.apply(x, block), block, start, arrives)
        _compare_passes(again, plain, ones, dropout)
        if again["kept"] > 8 * tokens * inner / 2:
            raise Wrong(
                "between the two passes x alone is kept",
                yours=f"{again['kept']} bytes besides x and the output",
                expected="next to nothing",
                likely="the inside of the block survives the forward pass: keep no graph and no activations in ctx",
            )
    _check_two_in_a_row(answer, d)


def _check_two_in_a_row(answer, d):
    blocks = [nn.Sequential(nn.Linear(d, d), nn.Tanh()).double() for _ in range(2)]
    x = torch.randn(5, d, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(blocks[1](blocks[0](x)).square().sum(), x)
    answer.apply(answer.apply(x, blocks[0]), blocks[1]).square().sum().backward()
    likely = "what belongs to one call goes into ctx: whatever all calls share, the second one overwrites"
    expect_close("the gradient of x through two blocks, one after the other", x.grad, expected, likely)


def _passes(apply, block, start, arrives):
    """Output, gradients and bytes of one forward and backward pass, other random numbers drawn between the two."""
    block.zero_grad()
    start.grad = None
    torch.manual_seed(11)
    x = start * 1.0  # like every hidden state, no leaf
    with LiveBytes([start, x, arrives, *block.parameters()]) as live:
        before = live.now
        y = apply(x)
        kept = live.now - before - (y.untyped_storage().nbytes() if isinstance(y, torch.Tensor) else 0)
    if not isinstance(y, torch.Tensor) or y.shape != arrives.shape:
        raise Wrong("forward returns the block's output", yours=y, expected="a tensor of the block's output shape")
    between = torch.rand(3)
    if not y.requires_grad:
        raise Wrong("the output wants a gradient", yours="it does not", expected="it does, since x does")
    y.backward(arrives)
    return {
        "output": y.detach(),
        "x": start.grad,
        "parameters": [p.grad for p in block.parameters()],
        "kept": kept,
        "random": (between, torch.rand(3)),
    }


def _compare_passes(yours, plain, ones, dropout):
    where = f"dropout {dropout:g}"
    expect_close(f"the output is the block's ({where})", yours["output"], plain["output"])
    summed = "the gradient that arrives at the output is ignored: y.backward(grad), not y.sum().backward()"
    other = "dropout draws another mask in the second pass: put the generator's state of the first one back"
    if yours["x"] is None:
        raise Wrong(
            f"x gets a gradient ({where})",
            yours="none",
            expected="the gradient of x, returned by backward",
            likely="a detached copy of x that requires_grad_() is a leaf, and has a .grad after y.backward(grad)",
        )
    likely = diagnose(yours["x"], {summed: ones["x"], "that is twice the gradient": 2 * plain["x"]})
    likely = likely or (other if dropout else None)
    expect_close(f"the gradient of x ({where})", yours["x"], plain["x"], likely)
    for mine, right, sums in zip(yours["parameters"], plain["parameters"], ones["parameters"], strict=True):
        if mine is None:
            raise Wrong(
                f"the block's parameters get gradients ({where})",
                yours="none",
                expected="gradients in .grad",
                likely="torch.autograd.grad computes what it is asked for; y.backward(grad) fills every .grad",
            )
        likely = diagnose(mine, {summed: sums, "the parameters' gradients are added twice": 2 * right})
        expect_close(f"the gradients of the block's parameters ({where})", mine, right, likely)
    expect_close("random numbers between the passes", yours["random"][0], plain["random"][0])
    expect_close(
        "random numbers after the backward pass",
        yours["random"][1],
        plain["random"][1],
        "the generator was set back and left there: torch.random.fork_rng() puts it right afterwards",
    )
