"""What an answer may not name: the reference, and Python's ways into the code that judges it.

`screen` reads the cell without running it. No exercise needs anything on these lists, so a hit is reported as an error,
with the line, for a person to look at. Names put together at run time are not seen here; see `integrity`.
"""

from __future__ import annotations

import ast
import importlib
from typing import Any

JUDGE = "lora_course.teaching"
HARMLESS = {f"{JUDGE}.profiles"}  # lessons import it themselves
MODULES = {"ctypes": "raw memory", "builtins": "Python's built-in names"}
ATTRIBUTES = {
    "f_back", "f_locals", "f_globals", "tb_frame", "tb_next", "gi_frame", "cr_frame", "ag_frame", "_getframe",
    "_current_frames", "currentframe", "__globals__", "__closure__", "__code__", "__subclasses__", "__builtins__",
    "settrace", "setprofile", "addaudithook", "__torch_function__", "__torch_dispatch__",
}  # fmt: skip


def screen(source: str, reference: Any) -> str | None:
    """The first thing that speaks against running this cell, as a sentence; None if nothing does.

    reference: the exercise's right answer, whose import is recognised under any name.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # it cannot run either, and running it says why
    for node in ast.walk(tree):
        if problem := _imports(node, reference) or _names(node):
            return f"{problem} (line {node.lineno} of the cell)"
    return None


def _imports(node: ast.AST, reference: Any) -> str | None:
    if isinstance(node, ast.Import):
        modules, names = [alias.name for alias in node.names], []
    elif isinstance(node, ast.ImportFrom) and not node.level:
        modules, names = [node.module or ""], [alias.name for alias in node.names]
    else:
        return None
    for module in modules:
        inside = [module, *(f"{module}.{name}" for name in names)]
        if any(name.startswith(f"{JUDGE}.checks") or name.startswith("solutions") for name in inside):
            return f"reads the reference: imports {module}"
        if module not in HARMLESS and any(_within(name, JUDGE) and name not in HARMLESS for name in inside):
            if module == f"{JUDGE}.exercises" and names == ["check"]:
                continue
            return f"tampered: imports {module}, the course's own grader"
        if module.split(".")[0] in MODULES:
            return f"tampered: imports {module} ({MODULES[module.split('.')[0]]}), which no answer needs"
        if any(_is_reference(module, name, reference) for name in names):
            return f"reads the reference: imports it from {module}"
    return None


def _names(node: ast.AST) -> str | None:
    if isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES:
        return f"tampered: reaches for {node.attr}, which no answer needs"
    if isinstance(node, ast.Name) and node.id == "__builtins__":
        return "tampered: reaches for __builtins__, which no answer needs"
    if isinstance(node, ast.Attribute) and node.attr == "modules" and isinstance(node.value, ast.Name):
        return "tampered: reaches for sys.modules, which no answer needs" if node.value.id == "sys" else None
    if isinstance(node, ast.Name) and node.id == "find_exercise":
        return "reads the reference: calls find_exercise"
    return None


def _is_reference(module: str, name: str, reference: Any) -> bool:
    """Whether `from module import name` is the reference. Imports our own package only."""
    if not _within(module, "lora_course"):
        return False
    try:
        return getattr(importlib.import_module(module), name, None) is reference
    except ImportError:
        return False


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")
