"""Checks of lesson 03, inside a transformer: injection, a stacked in_proj, a fused Conv1D, counting."""

import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lora_course.adapters import LoRA
from lora_course.adapters.base import Adapter, weight_view
from lora_course.adapters.config import AdapterConfig
from lora_course.adapters.inject import find_targets, inject
from lora_course.teaching.compare import Wrong, diagnose, expect_close, expect_equal, expect_parts
from lora_course.teaching.exercises import exercise

IN, OUT, RANK = 20, 12, 3  # all different, so that a swap shows
CONFIG = AdapterConfig(rank=RANK, alpha=7.0)


class Block(nn.Module):
    """Layers whose names are made to be confused."""

    def __init__(self):
        super().__init__()
        self.query, self.my_query, self.key = (nn.Linear(IN, OUT) for _ in range(3))
        self.out = nn.Linear(OUT, IN)
        self.norm = nn.LayerNorm(IN)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.out(self.query(x).tanh() * self.my_query(x) + self.key(x)))


class Tiny(nn.Module):
    """Two blocks and a head."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(IN, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def put_adapters(model: nn.Module, suffixes: list[str], config: AdapterConfig) -> list[str]:
    config = replace(config, target_modules=suffixes)
    names = list(find_targets(model, config))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*stays frozen")  # of the head, which this exercise leaves to its caller
        inject(model, config)
    return names


@exercise(
    "03.1",
    title="Put adapters into a model",
    reference=put_adapters,
    verified="the right layers and no others are wrapped, also for names of one part and of several, each around the "
    "layer that was there, with the settings of the config; nothing but A and B is trainable; the output is as before "
    "until B moves; a name that matches nothing and a second injection are refused before anything has changed",
    minutes=25,
    difficulty=3,
)
def check_put_adapters(answer):
    model, x = Tiny(), torch.randn(4, IN)
    layers, before = dict(model.named_modules()), model(x)
    names = answer(model, ["query", "out"], CONFIG)
    expected = ["blocks.0.out", "blocks.0.query", "blocks.1.out", "blocks.1.query"]
    _check_wrapped(model, expected, ["query", "out"])
    for name in expected:
        if model.get_submodule(name).base_layer is not layers[name]:
            raise Wrong(
                f"the adapter at {name} is wrapped around the layer that was there",
                yours="another layer",
                expected="the same object",
                likely="give LoRA the layer itself: a new one, or a copy, has lost what was pretrained or what is tied",
            )
    _check_trainable(model, expected)
    expect_close("the output is as before while B is zero", model(x), before)
    for name in expected:
        nn.init.normal_(model.get_submodule(name).lora_B)
    if torch.allclose(model(x), before):
        raise Wrong("the adapters are used: the output changes with B", likely="the model still calls the old layers")
    expect_equal(
        "the names of the wrapped layers are returned",
        sorted(names) if isinstance(names, list | tuple) else names,
        expected,
        "return the list of full names, such as 'blocks.0.query'",
    )
    for name in expected:
        adapter = model.get_submodule(name)
        right = CONFIG.alpha / RANK * adapter.lora_B @ adapter.lora_A
        likely = "hand `config` itself to LoRA: its alpha, its dropout and whatever else it says"
        expect_close(f"the adapter at {name} has the config's scaling", adapter.delta_weight(), right, likely)
    _check_refusals(answer, model, x)
    for suffixes, expected in ((["head"], ["head"]), (["1.key"], ["blocks.1.key"])):
        model = Tiny()
        try:
            answer(model, suffixes, CONFIG)
        except ValueError as error:
            likely = "a name may be a suffix of itself: 'head' has no dot before it"
            if suffixes != ["head"]:
                likely = "a suffix may have several parts, as PEFT allows: compare the end of the name, not one part"
            raise Wrong(f"{suffixes} matches {expected}", yours=f"ValueError: {error}", likely=likely) from error
        _check_wrapped(model, expected, suffixes)


def _check_wrapped(model: nn.Module, expected: list[str], suffixes: list[str]) -> None:
    wrapped = sorted(name for name, module in model.named_modules() if isinstance(module, Adapter))
    likely = None
    if odd := [child for child, _ in model.named_children() if "." in child]:
        raise Wrong(
            "the adapters take the places of the layers",
            yours=f"the model has a new child called {odd[0]!r}",
            expected=f"{odd[0].rpartition('.')[2]!r} in {odd[0].rpartition('.')[0]} is the adapter",
            likely=f"setattr(model, {odd[0]!r}, ...) makes a module of that odd name at the top, which nobody calls, "
            "and leaves the layer where it was: use model.set_submodule(name, new)",
        )
    if any("forward" in vars(module) for module in model.modules()):
        likely = (
            "you replaced a layer's forward: an adapter that only a closure knows is in no state_dict, moves with no "
            ".to() and gets no optimizer. Replace the module"
        )
    elif any(".base_layer." in f"{name}." for name in wrapped):
        likely = "an adapter inside an adapter: collect the targets first, then replace them"
    elif any("my_query" in name for name in wrapped):
        likely = "'my_query' ends with the letters of 'query', but it is another name: compare whole parts"
    elif not wrapped:
        likely = "the wrapped layer must take the old one's place in the model: model.set_submodule(name, new)"
    elif any(name.endswith("query") for name in wrapped) and not any(name.endswith("out") for name in wrapped):
        likely = "only the first suffix was used"
    expect_equal(f"the layers that became adapters for {suffixes}", wrapped, expected, likely)


def _check_trainable(model: nn.Module, adapted: list[str]) -> None:
    expected = sorted(f"{name}.lora_{letter}" for name in adapted for letter in "AB")
    trainable = sorted(name for name, p in model.named_parameters() if p.requires_grad)
    likely = None
    if not trainable:
        likely = "the adapters are frozen too: freeze the model first, and wrap then"
    elif set(trainable) > set(expected):
        likely = "something else is still trained: freeze all of the model, not only the layers that you wrap"
    expect_equal("the trainable parameters", trainable, expected, likely)


def _check_refusals(answer: Callable, adapted: nn.Module, x: Tensor) -> None:
    for suffixes, missing in ((["querry"], "querry"), (["query", "valeu"], "valeu")):
        model = Tiny()
        try:
            answer(model, suffixes, CONFIG)
        except ValueError as error:
            if missing not in str(error):
                raise Wrong(
                    f"the ValueError names what matches nothing: {missing!r}",
                    yours=f"ValueError: {error}",
                    likely="say which suffix it was, so that a typo can be found",
                ) from error
        else:
            raise Wrong(
                f"{suffixes} is refused: {missing!r} matches nothing",
                yours="no error",
                expected="ValueError",
                likely="a typo would train nothing, silently, for hours. Look at each suffix on its own",
            )
        if any(isinstance(m, Adapter) for m in model.modules()) or not all(p.requires_grad for p in model.parameters()):
            raise Wrong(
                "a refusal changes nothing",
                yours="some layers are wrapped or frozen already",
                expected="the model as it was",
                likely="find all targets and raise first; freeze and wrap only then",
            )
    try:
        answer(adapted, ["key"], CONFIG)
    except ValueError:
        return
    raise Wrong(
        "a second injection is refused",
        yours="no error",
        expected="ValueError",
        likely="look for an Adapter among model.modules() first: freezing the model would freeze the adapters that are "
        "there, and a second one around the same layer is never what was meant",
    )


def split_in_proj(attention: nn.MultiheadAttention) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    from lora_course.adapters.attention import SplitAttention

    split = SplitAttention(attention)
    return split.q_proj, split.k_proj, split.v_proj


@exercise(
    "03.2",
    title="Take a stacked projection apart",
    reference=split_in_proj,
    verified="q, k and v compute what the stacked weight computes, exactly, with and without bias and in float64; they "
    "are copies, and the attention is as it was",
    minutes=12,
    difficulty=2,
)
def check_split(answer):
    d = 12
    for bias, dtype in ((True, torch.float32), (False, torch.float32), (True, torch.float64)):
        attention = nn.MultiheadAttention(d, 3, bias=bias, dtype=dtype)
        if bias:
            nn.init.normal_(attention.in_proj_bias)
        weight = attention.in_proj_weight.detach().clone()
        parts = answer(attention)
        expect_parts("split_in_proj returns three layers", parts, "q, k, v")
        kinds = [type(part).__name__ for part in parts]
        expect_equal("q, k and v are layers", kinds, ["Linear"] * 3, "wrap each third in an nn.Linear")
        expect_equal(
            "q, k and v have the dtype of the attention",
            [p.weight.dtype for p in parts],
            [dtype] * 3,
            "nn.Linear makes float32 unless told otherwise: the numbers were rounded, or would be",
        )
        mine = torch.stack([p.weight for p in parts]) if len({p.weight.shape for p in parts}) == 1 else parts[0].weight
        right = weight.view(3, d, d)
        likely = diagnose(
            mine,
            {
                "each third is transposed: nn.Linear and in_proj_weight both keep weights as (out, in), so nothing "
                "is to be turned": right.transpose(1, 2),
                "the order is q, k, v": right.flip(0),
                "you took every third row: q, k and v lie one after the other, as three blocks": weight.view(
                    d, 3, d
                ).transpose(0, 1),
                "all three are the first third": right[:1].expand(3, d, d),
            },
            "these are new random weights: copy the pretrained ones in",
        )
        if mine.shape == (d, d // 3) or mine.shape == (3, 3 * d, d // 3):
            likely = "you cut columns: each output has its own row, so q is the first third of the rows"
        expect_close("the weights of q, k and v", mine, right, likely, atol=0, rtol=0)
        if not bias:
            expect_equal(
                "without a stacked bias, q, k and v have none",
                [p.bias is None for p in parts],
                [True] * 3,
                "nn.Linear makes a random bias unless told bias=False: the outputs would be off by it",
            )
        else:
            if any(p.bias is None for p in parts):
                raise Wrong("q, k and v have biases", likely="in_proj_bias is stacked as well: split it too")
            biases = torch.stack([p.bias for p in parts])
            likely = "in_proj_bias is stacked as well: copy each third in"
            expect_close("the biases of q, k and v", biases, attention.in_proj_bias.view(3, d), likely, atol=0, rtol=0)
        with torch.no_grad():
            for part in parts:
                part.weight.add_(1.0)
        expect_close(
            "the attention is as it was after q, k and v have changed",
            attention.in_proj_weight,
            weight,
            "chunk gives views of the same memory: copy, or merging into q would write into in_proj_weight",
        )


def fused_delta(adapters: dict[str, tuple[Tensor, Tensor]], scaling: float) -> Tensor:
    first, _ = next(iter(adapters.values()))
    d = first.shape[1]
    change = first.new_zeros(3 * d, d)  # (out, in), as in a Linear
    for part, rows in zip("qkv", change.split(d), strict=True):
        if part in adapters:
            A, B = adapters[part]
            rows.copy_(scaling * B @ A)
    return change.T.contiguous()


@exercise(
    "03.3",
    title="Low rank in a fused, transposed weight",
    reference=fused_delta,
    verified="a Conv1D with your change gives W x + s B A x in the parts that have an adapter, and exactly W x in "
    "those that have none; for one, two and three parts, in any order, with ranks that differ",
    minutes=15,
    difficulty=3,
)
def check_fused(answer):
    d, scaling = 6, 7 / 3
    pairs = {
        part: (torch.randn(r, d, dtype=torch.float64), torch.randn(d, r, dtype=torch.float64))
        for part, r in (("q", 2), ("k", 4), ("v", 3))
    }
    for parts in ("qv", "k", "vkq"):
        yours = answer({part: pairs[part] for part in parts}, scaling)
        zero = torch.zeros(d, d, dtype=torch.float64)
        deltas = {part: scaling * B @ A for part, (A, B) in pairs.items()}  # (out, in)
        blocks = [deltas[part] if part in parts else zero for part in "qkv"]
        present = [deltas[part].T for part in parts]
        likely = diagnose(
            yours,
            {
                "the scaling is missing": torch.cat([b.T for b in blocks], 1) / scaling,
                "each block is in nn.Linear's layout: Conv1D keeps (in, out), so each B A is to be transposed, and "
                "since it is square nothing fails": torch.cat(blocks, 1),
                "that is the change of an nn.Linear, (out, in): Conv1D keeps the transpose": torch.cat(blocks, 0),
                "you transposed each block and stacked them as rows: q, k and v lie in columns": torch.cat(
                    [b.T for b in blocks], 0
                ),
                "the blocks follow the order of the dictionary: q, k, v have fixed places": torch.cat(
                    present + [zero] * (3 - len(present)), 1
                ),
                "parts without an adapter need their zeros: the fused weight is always (d, 3 d)": torch.cat(present, 1),
            },
        )
        right = torch.cat([b.T for b in blocks], 1)
        if isinstance(yours, Tensor) and tuple(yours.shape) == (3 * d, d):
            raise Wrong("the change has the shape of the weight", yours=(3 * d, d), expected=(d, 3 * d), likely=likely)
        expect_close(f"the change of a ({d}, {3 * d}) weight, adapters on {', '.join(parts)}", yours, right, likely)
        layer, x = Conv1D(3 * d, d).double(), torch.randn(5, d, dtype=torch.float64)
        changed = Conv1D(3 * d, d).double()
        changed.load_state_dict(layer.state_dict())
        with torch.no_grad():
            changed.weight += yours
        for part, old, new in zip("qkv", layer(x).chunk(3, -1), changed(x).chunk(3, -1), strict=True):
            expected = old + F.linear(x, deltas[part]) if part in parts else old
            expect_close(f"what c_attn gives for {part}", new, expected)


def count_for_targets(model: nn.Module, suffixes: list[str], rank: int) -> int:
    targets = find_targets(model, AdapterConfig(rank=rank, target_modules=suffixes))
    once = {id(layer): layer for layer in targets.values()}
    return sum(LoRA.count_trainable(*reversed(weight_view(layer).shape), rank) for layer in once.values())


@exercise(
    "03.4",
    title="The price of a list of names",
    reference=count_for_targets,
    verified="the count is what injection would make trainable, for Linear and Conv1D, names of several parts, a layer "
    "with two names, and a model on the meta device; the model is left alone",
    minutes=10,
    difficulty=2,
)
def check_count(answer):
    from transformers import GPT2Config, GPT2LMHeadModel

    tokens = {"bos_token_id": 0, "eos_token_id": 0}  # the usual ones are beyond so small a vocabulary

    def gpt2() -> nn.Module:
        with torch.device("meta"):
            return GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=30, n_positions=5, **tokens))

    def twice() -> nn.Module:
        model = Tiny()
        model.blocks[1].query = model.blocks[0].query
        return model

    cases = [
        (Tiny, ["query", "out"], "two blocks of Linear layers"),
        (gpt2, ["c_attn"], "GPT-2's Conv1D layers"),
        (gpt2, ["mlp.c_proj"], "a name of two parts"),
        (gpt2, ["attn.c_proj", "c_proj", "c_fc"], "suffixes that overlap"),
        (twice, ["query"], "one layer with two names"),
    ]
    yours, mistakes = [], []
    for make, suffixes, _ in cases:
        model = make()
        state = [(name, type(m), m.training) for name, m in model.named_modules()]
        yours.append(answer(model, list(suffixes), RANK))
        changed = [(name, type(m), m.training) for name, m in model.named_modules()] != state
        if changed or not all(p.requires_grad for p in model.parameters()):
            raise Wrong("counting leaves the model as it was", likely="count from shapes; nothing has to be injected")
        mistakes.append(_wrong_counts(model, suffixes))
    likely = diagnose(yours, {text: [counts[text] for counts in mistakes] for text in mistakes[0]})
    for (make, suffixes, what), mine in zip(cases, yours, strict=True):
        expected = count_for_targets(make(), suffixes, RANK)
        expect_equal(f"{what}: rank {RANK} on {suffixes}", mine, expected, likely)


def _wrong_counts(model: nn.Module, suffixes: list[str]) -> dict[str, float]:
    def ends(name: str, suffix: str) -> bool:
        return name == suffix or name.endswith(f".{suffix}")

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)]
    once = [m for n, m in layers if any(ends(n, s) for s in suffixes)]
    everywhere = model.named_modules(remove_duplicate=False)

    def price(modules: list[nn.Module]) -> int:
        return sum(RANK * sum(m.weight.shape) for m in modules)

    return {
        "Conv1D is no nn.Linear: ask for both": price([m for m in once if isinstance(m, nn.Linear)]),
        "names that merely end in the same letters were counted too: compare whole parts": price(
            [m for n, m in layers if any(n.endswith(s) for s in suffixes)]
        ),
        "only the last part of each name was compared: 'mlp.c_proj' has two parts": price(
            [m for n, m in layers if n.rpartition(".")[2] in suffixes]
        ),
        "a layer that two suffixes match is still one layer": price(
            [m for s in suffixes for n, m in layers if ends(n, s)]
        ),
        "a layer that has two names was counted twice: it gets one adapter": price(
            [m for n, m in everywhere if any(ends(n, s) for s in suffixes)]
        ),
        "you counted the frozen weights: an adapter holds rank x (in + out)": sum(m.weight.numel() for m in once),
        "you counted A only": RANK * sum(weight_view(m).shape[1] for m in once),
        "you counted B only": RANK * sum(weight_view(m).shape[0] for m in once),
        "only the first layer was counted": price(once[:1]),
    }
