"""Mutants of a solution: the whole cell, with one thing changed inside its solution region.

`mutants(cell)` lists them in the order of the lines; `places` finds the nodes, `rules` says what could stand there.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from lora_course.teaching.mutation.rules import RULES, Place, Replacement, but
from lora_course.teaching.source import BEGIN, END, Cell


@dataclass(frozen=True)
class Mutant:
    """change: what is different, as a person reads it, unlike any other of the cell; source: the whole cell."""

    change: str
    source: str


def mutants(cell: Cell) -> list[Mutant]:
    """Every mutant of an exercise's cell, in the order of its lines; no two have the same source."""
    tree = ast.parse(cell.source)
    several = sum(isinstance(node, ast.FunctionDef) for node in ast.walk(tree)) > 1
    made, seen, met = [], {ast.unparse(tree)}, Counter()
    for place in places(tree, region(cell.source)):
        for rule in RULES:
            for new in rule(place.node, place):
                source = _unparsed_with(tree, place, new)
                if source in seen:
                    continue
                seen.add(source)
                change = (f"{place.function.name}: " if several else "") + _in_words(place, new)
                met[change] += 1
                made.append(Mutant(change + (f" ({met[change]})" if met[change] > 1 else ""), source))
    return made


def region(source: str) -> set[int]:
    """The numbers of the lines between the markers."""
    inside, lines = False, set()
    for number, line in enumerate(source.splitlines(), 1):
        if line.strip() in (BEGIN, END):
            inside = line.strip() == BEGIN
        elif inside:
            lines.add(number)
    return lines


def places(tree: ast.AST, lines: set[int]) -> Iterator[Place]:
    """Every node that starts in one of the lines, outer ones first."""

    def below(parent, statement, function, bound):
        for field, value in ast.iter_fields(parent):
            children = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
            for index, node in children:
                if not isinstance(node, ast.AST):
                    continue
                inner = node if isinstance(node, ast.stmt) else statement
                if function and getattr(node, "lineno", None) in lines:
                    names = tuple(name for name, line in bound.items() if line < inner.lineno)
                    yield Place(parent, field, index, node, inner, function, names)
                if isinstance(node, ast.FunctionDef) and node.lineno not in lines:
                    yield from below(node, inner, node, _bindings(node))
                else:
                    yield from below(node, inner, function, bound)

    yield from below(tree, None, None, {})


def _bindings(function: ast.FunctionDef) -> dict[str, int]:
    """Every name that a function binds, its arguments first, and the line after which it is bound."""
    found = {argument.arg: function.lineno for argument in function.args.args if argument.arg not in ("self", "ctx")}
    inside = [ast.walk(loop) for loop in ast.walk(function) if isinstance(loop, ast.comprehension)]
    hidden = {id(node) for nodes in inside for node in nodes}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in hidden:
            found[node.id] = min(node.lineno, found.get(node.id, node.lineno))
    return found


def _unparsed_with(tree: ast.AST, place: Place, new: Replacement) -> str:
    old = getattr(place.parent, place.field)
    if place.index is None:
        changed = new
    else:
        changed = [*old[: place.index], *(new if isinstance(new, list) else [new]), *old[place.index + 1 :]]
        changed = changed or [ast.Pass()]
    setattr(place.parent, place.field, changed)
    try:
        return ast.unparse(tree)
    finally:
        setattr(place.parent, place.field, old)


def _in_words(place: Place, new: Replacement) -> str:
    before = _header(place.statement)
    if new == []:
        return f"without `{before}`"
    if isinstance(new, list):
        return f"without `{before}`, but with what stands in it"
    if place.node is place.statement:
        after = _header(new)
    else:
        old = getattr(place.parent, place.field)
        setattr(place.parent, place.field, new if place.index is None else [new if n is place.node else n for n in old])
        after = _header(place.statement)
        setattr(place.parent, place.field, old)
    return f"`{before}` became `{after}`" if before != after else f"`{before}` stops after its first turn"


def _header(statement: ast.AST) -> str:
    """A statement on one line; of a compound one, the part before its body."""
    emptied = {name: [] for name in ("body", "orelse") if hasattr(statement, name)}
    return " ".join(ast.unparse(but(statement, **emptied)).split())
