"""What a check says about a wrong answer: the property that failed, yours, the expected, and the likely mistake.

`Wrong` carries those four. `expect_close` and `expect_equal` raise it when two values differ, whatever odd thing
the learner returned. `diagnose` names the mistake: give it the value each plausible mistake would have produced,
and it picks the one that matches. `summarise` shows any value in one short line that is the same on every run
(no object addresses), so that the words of a check can be compared by a test.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

SHOWN_NUMBERS = 6
SHOWN_CHARACTERS = 200
NOTHING = object()  # to tell "nothing to show" from a learner's None


class Wrong(AssertionError):
    """A property that an answer should have and has not.

    property: what should hold, as a statement ("B starts at zero").
    yours, expected: any values; strings are shown as they are, everything else through `summarise`. Leave out what
        has nothing to show.
    likely: the mistake that most often causes this, said to the learner ("your delta is scaled by alpha, not ...").
    The four stay together in `lines`: (label, text) pairs in the order in which a reader wants them.
    """

    def __init__(self, property: str, *, yours: Any = NOTHING, expected: Any = NOTHING, likely: str | None = None):
        said = {"Property": property, "Yours": yours, "Expected": expected, "Likely": likely or NOTHING}
        self.lines: list[tuple[str, str]] = [
            (label, value if isinstance(value, str) else summarise(value))
            for label, value in said.items()
            if value is not NOTHING
        ]
        super().__init__("\n".join(f"{label}: {text}" for label, text in self.lines) if self.lines[1:] else property)


def summarise(value: Any) -> str:
    """One line that shows `value`: shape and first numbers of a tensor, the name of a class, else a short repr."""
    try:
        return in_one_line(_summarise(value))
    except Exception:  # a learner's own __repr__ may raise anything
        return f"a {type(value).__name__} that cannot be shown"


def _summarise(value: Any) -> str:
    if isinstance(value, Tensor):
        return _summarise_tensor(value.detach())
    if isinstance(value, nn.Module):
        return f"a {type(value).__name__} module"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if type(value) in (list, tuple):
        inside = [_summarise(v) for v in value[:SHOWN_NUMBERS]] + ["..."] * (len(value) > SHOWN_NUMBERS)
        return ("[%s]" if isinstance(value, list) else "(%s)") % ", ".join(inside)
    return repr(value)


def _summarise_tensor(value: Tensor) -> str:
    dtype = "" if value.dtype == torch.float32 else f" {str(value.dtype).removeprefix('torch.')}"
    head = f"tensor {tuple(value.shape)}{dtype}" if value.dim() else f"tensor{dtype}"
    flat = value.flatten()
    if flat.is_meta or not flat.numel():
        return f"{head}, no values"
    numbers = ", ".join(f"{x:.4g}" if isinstance(x, float) else str(x) for x in flat[:SHOWN_NUMBERS].tolist())
    notes = ""
    if value.is_floating_point() and not bool(torch.isfinite(flat).all()):
        notes = " (holds NaN or infinity)"
    elif flat.numel() > 1 and not bool(flat.any()):
        notes = " (all zero)"
    return f"{head}: {numbers}{', ...' if flat.numel() > SHOWN_NUMBERS else ''}{notes}"


def in_one_line(text: str) -> str:
    """`text` on one line of bounded length, without the object addresses that change from run to run."""
    text = " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", text).split())
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 4] + " ..."


def expect_subclass(answer: Any, base: type, name: str) -> None:
    """Raises Wrong unless the answer is a class made from `base`. name: what the exercise calls it."""
    if not (isinstance(answer, type) and issubclass(answer, base)):
        raise Wrong(
            f"{name} is a subclass of {base.__name__}",
            yours=answer,
            expected=f"class {name}({base.__name__}): ...",
            likely="pass the class itself to check, not an object made from it",
        )


def expect_close(
    name: str, yours: Any, expected: Any, likely: str | None = None, atol: float = 1e-5, rtol: float = 1e-4
) -> None:
    """Raises Wrong unless `yours` has the shape of `expected` and |yours - expected| <= atol + rtol |expected|.

    name: the property, as a statement ("the output is W x + b + s B A x").
    yours: whatever the learner returned; anything but numbers is told by its type, a wrong shape by its shape.
    expected: tensor or number.
    likely: the mistake to name, often from `diagnose`.
    """
    right = _as_numbers(expected)
    if right is None:
        raise TypeError(f"expect_close({name!r}): expected must be numbers, not {summarise(expected)}")
    mine = _as_numbers(yours)
    if mine is None:
        hint = "nothing is returned: is there a `return`?" if yours is None else likely
        raise Wrong(name, yours=yours, expected=expected, likely=hint)
    if mine.shape != right.shape:
        hint = "it is transposed" if right.dim() == 2 and mine.shape == right.T.shape else likely
        raise Wrong(name, yours=f"shape {tuple(mine.shape)}", expected=f"shape {tuple(right.shape)}", likely=hint)
    close = torch.isclose(mine, right, atol=atol, rtol=rtol, equal_nan=True)
    if not bool(close.all()):
        difference = (mine - right).abs().nan_to_num(nan=torch.inf)
        worst = torch.unravel_index(difference.argmax(), right.shape)
        place = f" at [{', '.join(str(int(i)) for i in worst)}]" if right.dim() else ""
        off = f"{summarise(yours)}; largest difference {difference[worst].item():.2g}{place}"
        raise Wrong(name, yours=off, expected=expected, likely=likely)


def expect_equal(name: str, yours: Any, expected: Any, likely: str | None = None) -> None:
    """Raises Wrong unless `yours == expected`, for counts, names, shapes and flags. Equal but of another type, such as
    1 for True, is equal; a tensor is compared as a plain number or list."""
    mine = yours.detach().tolist() if isinstance(yours, Tensor) else yours
    try:
        same = bool(mine == expected)
    except Exception:  # an array of several values has no truth value, a learner's class may do anything
        same = False
    if not same:
        hint = "nothing is returned: is there a `return`?" if yours is None else likely
        raise Wrong(name, yours=yours, expected=expected, likely=hint)


def expect_parts(name: str, yours: Any, expected: str, likely: str | None = None) -> None:
    """Raises Wrong unless `yours` is a tuple or list with one part for each name in `expected`, "grad_A, grad_B"."""
    if not isinstance(yours, tuple | list) or len(yours) != len(expected.split(",")):
        raise Wrong(name, yours=yours, expected=expected, likely=likely or f"return {expected}")


def expect_untouched(names: str, now: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    """Raises Wrong for the first tensor that the answer has changed. names: "x, A, B", one for each."""
    for name, mine, old in zip(names.split(", "), now, before, strict=True):
        expect_close(f"{name}, which you were given, stays as it was", mine, old, "make new tensors: no +=, no mul_")


def diagnose(yours: Any, mistakes: Mapping[str, Any | Callable[[], Any]], default: str | None = None) -> str | None:
    """The first mistake whose value is what the learner got, or `default`.

    mistakes: message to the learner -> the value that mistake gives (or a function without arguments that
        computes it). Values of another shape do not match.
    """
    mine = _as_numbers(yours)
    if mine is not None:
        for message, value in mistakes.items():
            predicted = _as_numbers(value() if callable(value) else value)
            if predicted is not None and predicted.shape == mine.shape and torch.allclose(
                mine, predicted, atol=1e-5, rtol=1e-4, equal_nan=True
            ):
                return message
    return default


def _as_numbers(value: Any) -> Tensor | None:
    """`value` as a float64 tensor on the CPU; None if it holds no numbers."""
    if isinstance(value, str | bytes | type(None)):
        return None
    try:
        tensor = torch.as_tensor(value).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        return None
    return tensor
