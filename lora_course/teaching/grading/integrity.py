"""Did an answer touch what judges it? Asked before the check runs, and again after.

    hide_judge()                    the answer's own `import lora_course.teaching...` gets a second copy of it
    seal = Seal(modules)            remembers functions, their code, classes and constants
    seal.broken()                   the first that is not what it was, or None
    watch(notes)                    an audit hook, which Python cannot remove: notes what answers reach for
An answer that patches something while it is called, and puts it back before it returns, is not seen by the seal.
"""

from __future__ import annotations

import builtins
import random
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch

from lora_course.teaching.grading.screen import JUDGE

ANSWER = "<answer "  # how the file names of learners' cells begin
LESSON = "<lesson "
PLAIN = (int, float, complex, str, bytes, tuple, frozenset, bool)
CODE = types.FunctionType | types.BuiltinFunctionType | type | types.MethodDescriptorType | types.WrapperDescriptorType
DIRECT = {
    "sys._getframe", "sys._current_frames", "sys._current_exceptions", "sys.settrace", "sys.setprofile",
    "sys.addaudithook", "gc.get_objects", "gc.get_referrers", "gc.get_referents", "code.__new__",
    "object.__getattr__", "object.__setattr__", "object.__delattr__",
}  # fmt: skip
HELPERS = ("inspect.py", "traceback.py", "ctypes/__init__.py", "ctypes\\__init__.py")
MEMORY = ("/proc/self/", "/proc/thread-self/", "/dev/mem", "/dev/fd")


def hide_judge(check_module: str) -> list[types.ModuleType]:
    """Takes the grader and the checks out of sys.modules, and returns them: from now on an import makes new copies."""
    names = [name for name in sys.modules if name == check_module or name.startswith(JUDGE)]
    for name in names:
        parent, _, child = name.rpartition(".")
        if parent in sys.modules and getattr(sys.modules[parent], child, None) is sys.modules[name]:
            delattr(sys.modules[parent], child)
    return [sys.modules.pop(name) for name in sorted(names, reverse=True)]


class Seal:
    """What the judge stands on, as it was when this was made: the judge's modules, our package, torch and builtins."""

    def __init__(self, judge: Iterable[types.ModuleType]):
        ours = [module for name, module in sys.modules.items() if name.split(".")[0] == "lora_course"]
        trusted = [torch, torch.nn, torch.nn.functional, torch.nn.init, torch.autograd, builtins, sys.modules["math"]]
        self.owners: list[Any] = [*judge, *ours, *trusted, random]
        self.owners += [torch.Tensor, torch._C.TensorBase, *_classes([torch.nn, *judge, *ours])]
        self.seen = [_contents(owner) for owner in self.owners]
        self.names = [set(vars(owner)) for owner in self.owners]

    def broken(self) -> str | None:
        """Names the first change; None if there is none."""
        for owner, seen, names in zip(self.owners, self.seen, self.names, strict=True):
            now = vars(owner)
            for name, (value, parts) in seen.items():
                if now.get(name) is not value or _parts(value) != parts:
                    return f"{owner.__name__}.{name} was changed"
            added = set(now) - names
            if not isinstance(owner, type):  # one may get submodules; a name that hides a built-in one is no accident
                added &= set(vars(builtins))
            if added:
                return f"{owner.__name__}.{min(added)} was added"
        if sys.gettrace() or sys.getprofile():
            return "a trace function was set"
        if torch.overrides._get_current_function_mode_stack() or torch._C._len_torch_dispatch_stack():
            return "torch's operations were intercepted"
        return None


def _classes(modules: Iterable[types.ModuleType]) -> list[type]:
    found = {v for m in modules for v in vars(m).values() if isinstance(v, type) and v.__module__ not in ("builtins",)}
    return [kind for kind in found if kind.__module__.startswith(("lora_course", "torch.nn"))]


def _contents(owner: Any) -> dict[str, tuple[Any, tuple]]:
    """Name -> value, and the parts of the value that can be exchanged in place."""
    kept = CODE | types.ModuleType | staticmethod | classmethod | property
    return {
        name: (value, _parts(value))
        for name, value in list(vars(owner).items())
        if isinstance(value, kept) or (name.isupper() and isinstance(value, PLAIN))
        if not (name.startswith("__") and isinstance(owner, type) and name in ("__dict__", "__weakref__"))
    }


def _parts(value: Any) -> tuple:
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if not isinstance(value, types.FunctionType):
        return ()
    return value.__code__, value.__defaults__, tuple((value.__kwdefaults__ or {}).items())


def watch(notes: list[str], secret_folders: tuple[str, ...]) -> None:
    """From now on, appends a sentence to `notes` for each thing that an answer's own code should not reach for."""
    ours = (__file__.rsplit("lora_course", 1)[0] + "lora_course", LESSON)
    frame_of: Callable[[int], types.FrameType] = sys._getframe
    busy = False

    def hook(event: str, args: tuple) -> None:
        nonlocal busy
        if busy:
            return
        direct = event in DIRECT or event.startswith("ctypes.")
        if not direct and event not in ("import", "open", "os.listdir", "os.scandir"):
            return
        busy = True
        try:
            about = _concerns(event, args, secret_folders)
            if about and _is_answers(frame_of(1), ours, direct):
                notes.append(about)
        finally:
            busy = False

    sys.addaudithook(hook)


def _concerns(event: str, args: tuple, secret_folders: tuple[str, ...]) -> str | None:
    if event == "import":
        hit = str(args[0]).startswith(f"{JUDGE}.checks")
        return f"reads the reference: imports {args[0]}" if hit else None
    if event in ("open", "os.listdir", "os.scandir"):
        path = args[0].decode(errors="replace") if isinstance(args[0], bytes) else str(args[0])
        if path.startswith(MEMORY):
            return f"tampered: reads {path}"
        return f"reads the reference: opens {path.rsplit('/', 1)[-1]}" if path.startswith(secret_folders) else None
    if event.startswith("object."):
        return f"tampered: reaches for {args[1]}"
    return f"tampered: calls {event}"


def _is_answers(frame: types.FrameType | None, ours: tuple[str, ...], direct: bool) -> bool:
    """Whether an answer did it: called directly, or (for files and imports) through other people's code."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(ANSWER):
            return True
        if file.startswith(ours) or (direct and not file.endswith(HELPERS)):
            return False
        frame = frame.f_back
    return False
