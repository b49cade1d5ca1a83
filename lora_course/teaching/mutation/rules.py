"""What could stand in a node's place by mistake: rules from a node of the syntax tree to its replacements.

Another operator, a constant one off, a transpose too many or too few, a factor left out, zeros for ones, a slice
shifted, two arguments swapped, another variable, a detach, a statement forgotten. Rules know Python's grammar and
torch's words, and nothing of a lesson. A replacement is a node, or, for a statement, a list of statements: none, or
several.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Replacement = ast.AST | list[ast.stmt]

OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult, ast.Mod: ast.FloorDiv, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
ORDERED = (ast.Sub, ast.Div, ast.FloorDiv, ast.Pow, ast.MatMult, ast.Mod)  # a op b is not b op a
COMPARISONS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
}  # fmt: skip
ATTRIBUTES = {
    "zeros": ("ones", "randn"), "ones": ("zeros", "randn"), "randn": ("zeros", "ones"),
    "zeros_like": ("ones_like",), "ones_like": ("zeros_like",), "zeros_": ("ones_", "normal_"),
    "kaiming_uniform_": ("normal_", "zeros_"), "sum": ("mean",), "mean": ("sum",), "amax": ("amin", "mean"),
    "argmax": ("argmin",), "sqrt": ("square",), "square": ("sqrt",), "no_grad": ("enable_grad",),
    "enable_grad": ("no_grad",), "int8": ("uint8", "float32"), "uint8": ("int8", "int64"), "round": ("floor",),
    "eval": ("train",), "in_features": ("out_features",), "out_features": ("in_features",), "alpha": ("rank",),
    "rank": ("alpha",), "lora_A": ("lora_B",), "lora_B": ("lora_A",), "vera_lambda_b": ("vera_lambda_d",),
    "vera_lambda_d": ("vera_lambda_b",), "A": ("B",), "B": ("A",), "named_modules": ("named_children",),
    "modules": ("children",), "nbytes": ("size",), "numel": ("dim",),
}  # fmt: skip
BUILTINS = {"min": "max", "max": "min", "sum": "max", "any": "all", "all": "any"}
GRAPH = ("forward", "branch")  # in a function's name: its result must carry gradients


@dataclass(frozen=True)
class Place:
    """Where a node stands: below `parent`, in `statement`, in `function`; `names` are bound there before its line."""

    parent: ast.AST
    field: str
    index: int | None
    node: ast.AST
    statement: ast.stmt
    function: ast.FunctionDef
    names: tuple[str, ...]


def but(node: ast.AST, **changes: Any) -> Any:
    """The same node, some of its fields changed."""
    return ast.copy_location(type(node)(**(dict(ast.iter_fields(node)) | changes)), node)


def _swaps(items: list) -> Iterator[list]:
    """The list with two neighbours swapped, once for each pair."""
    for i in range(len(items) - 1):
        yield [*items[:i], items[i + 1], items[i], *items[i + 2 :]]


def _dropped(items: list) -> Iterator[list]:
    for i in range(len(items)):
        yield items[:i] + items[i + 1 :]


def _transposed(node: ast.expr) -> ast.expr:
    return ast.Attribute(node, "T", ast.Load())


def operators(node: ast.AST, place: Place) -> Iterator[Replacement]:
    """Another operator, operands swapped, one operand left out, a sign lost."""
    if isinstance(node, ast.BinOp):
        yield but(node, op=OPERATORS[type(node.op)]())
        if isinstance(node.op, ORDERED):
            yield but(node, left=node.right, right=node.left)
        yield node.left
        yield node.right
    elif isinstance(node, ast.UnaryOp):
        yield node.operand


def conditions(node: ast.AST, place: Place) -> Iterator[Replacement]:
    """A comparison turned, a test negated or half as strict, one way taken always."""
    if isinstance(node, ast.Compare):
        yield from (but(node, ops=[new(), *node.ops[1:]]) for new in COMPARISONS[type(node.ops[0])])
    elif isinstance(node, ast.BoolOp):
        yield but(node, op=ast.And() if isinstance(node.op, ast.Or) else ast.Or())
        yield from node.values
    elif isinstance(node, ast.IfExp):
        yield but(node, body=node.orelse, orelse=node.body)
        yield from (node.body, node.orelse)
    elif isinstance(node, ast.If):
        yield but(node, test=ast.UnaryOp(ast.Not(), node.test))
        yield node.body
        yield node.orelse
    elif isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
        for i, loop in enumerate(node.generators):
            for fewer in _dropped(loop.ifs):
                others = node.generators
                yield but(node, generators=[*others[:i], but(loop, ifs=fewer), *others[i + 1 :]])
        if isinstance(node, ast.SetComp):
            yield ast.ListComp(node.elt, node.generators)


def constants(node: ast.AST, place: Place) -> Iterator[Replacement]:
    """A number one more, one less, double, 0 or 1; the other truth value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        n, kind = node.value, type(node.value)
        yield from (ast.Constant(kind(value)) for value in dict.fromkeys((n + 1, n - 1, 2 * n, 0, 1)) if value != n)


def transposes(node: ast.AST, place: Place) -> Iterator[Replacement]:
    """A transpose left out, or put where none belongs."""
    if isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
        yield node.value
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        yield but(node, left=_transposed(node.left))
        yield but(node, right=_transposed(node.right))
        yield _transposed(node)


def words(node: ast.AST, place: Place) -> Iterator[Replacement]:
    """Another function, attribute or start: zeros for ones, sum for mean, A for B, min for max."""
    if isinstance(node, ast.Attribute):
        yield from (but(node, attr=name) for name in ATTRIBUTES.get(node.attr, ()))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from (ast.Constant(name) for name in ATTRIBUTES.get(node.value, ()))
    elif isinstance(node, ast.Name) and node.id in BUILTINS:
        yield but(node, id=BUILTINS[node.id])


def names(node: ast.AST, place: Place) -> Iterator[Replacement]:
    """The next variable of the function instead of this one; for what is returned, any that it has computed."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in place.names:
        yield but(node, id=place.names[(place.names.index(node.id) + 1) % len(place.names)])
    elif isinstance(node, ast.Return) and node.value is not None:
        arguments = {argument.arg for argument in place.function.args.args}
        for name in place.names:
            if name not in arguments:
                yield but(node, value=ast.Name(name, ast.Load()))


def calls(node: ast.AST, place: Place) -> Iterator[Replacement]:
    """A call left out (its first argument or its object stays), arguments swapped, a keyword left out."""
    if not isinstance(node, ast.Call):
        return
    if not isinstance(place.parent, ast.Expr):
        root = node.func
        while isinstance(root, ast.Attribute | ast.Subscript | ast.Call):
            root = root.func if isinstance(root, ast.Call) else root.value
        of_a_value = isinstance(node.func, ast.Attribute) and not (
            isinstance(root, ast.Name) and root.id not in place.names
        )
        if of_a_value:
            yield node.func.value
        elif node.args and not isinstance(node.args[0], ast.GeneratorExp | ast.Starred):
            yield node.args[0]
    yield from (but(node, args=swapped) for swapped in _swaps(node.args))
    yield from (but(node, keywords=fewer) for fewer in _dropped(node.keywords))


def sequences(node: ast.AST, place: Place) -> Iterator[Replacement]:
    """Neighbours swapped in a tuple, a list, a dictionary's values; a slice shifted, from the other end, or all."""
    if isinstance(node, ast.Tuple | ast.List) and isinstance(node.ctx, ast.Load):
        yield from (but(node, elts=swapped) for swapped in _swaps(node.elts))
    elif isinstance(node, ast.Dict):
        yield from (but(node, values=swapped) for swapped in _swaps(node.values))
    elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        yield node.value
    elif isinstance(node, ast.Slice):
        for end in ("lower", "upper"):
            if (bound := getattr(node, end)) is not None:
                yield from (but(node, **{end: ast.BinOp(bound, op(), ast.Constant(1))}) for op in (ast.Add, ast.Sub))
                yield but(node, **{end: None})
        if node.upper and not node.lower:
            yield but(node, lower=node.upper, upper=None)
            yield but(node, lower=ast.UnaryOp(ast.USub(), node.upper), upper=None)
        if node.step:
            yield but(node, lower=None if node.lower else ast.Constant(1))
            yield but(node, step=None)


def gradients(node: ast.AST, place: Place) -> Iterator[Replacement]:
    """A detach where the result must carry gradients. Those left out are found as calls, no_grad as a statement."""
    arguments = [argument.arg for argument in place.function.args.args]
    if any(word in place.function.name for word in GRAPH) and "ctx" not in arguments:  # a Function has no graph inside
        detached = lambda part: ast.Call(ast.Attribute(part, "detach", ast.Load()), [], [])  # noqa: E731
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            yield but(node, left=detached(node.left))
            yield but(node, right=detached(node.right))
        elif isinstance(node, ast.Return) and node.value is not None:
            yield but(node, value=detached(node.value))


def statements(node: ast.AST, place: Place) -> Iterator[Replacement]:
    """A statement forgotten, a block without its `with`, a loop that stops too early, += that is not in place."""
    said = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    if said or isinstance(node, ast.Raise | ast.Continue):
        yield []
    elif isinstance(node, ast.Assign):
        if not isinstance(node.targets[0], ast.Name) or node.targets[0].id in place.names:
            yield []
    elif isinstance(node, ast.AugAssign):
        yield []
        load = ast.parse(ast.unparse(node.target), mode="eval").body
        yield but(node, op=OPERATORS[type(node.op)]())
        yield ast.copy_location(ast.Assign([node.target], node.value), node)
        yield ast.copy_location(ast.Assign([node.target], ast.BinOp(load, node.op, node.value)), node)
    elif isinstance(node, ast.With):
        yield from (but(node, items=fewer) for fewer in _dropped(node.items) if fewer)
        yield node.body
    elif isinstance(node, ast.For):
        yield but(node, body=[*node.body, ast.Break()])


Rule = Callable[[ast.AST, Place], Iterator[Replacement]]
RULES: tuple[Rule, ...] = (
    operators, conditions, constants, transposes, words, names, calls, sequences, gradients, statements,
)  # fmt: skip
