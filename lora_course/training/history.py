"""What happened in a run, in one schema that search, benchmark and plots all read.

Run          what was trained: names, device, seed, settings, parameter counts, versions
StepRow      one row per optimizer step        EvaluationRow   one row per evaluation
LayerRow     one row per recorded step and adapted layer (dynamics.py records them)
Summary      totals, filled in when the run ends
History      all of them together; saves to JSON, loads strictly, flattens to rows for plotting
"""

from __future__ import annotations

import json
import math
import platform
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lora_course.atomic import write_files
from lora_course.training.metrics import effective_rank

SCHEMA = 2  # 1 had no layers and no measured


@dataclass
class Run:
    """What was trained, on what and with which settings; counts are of parameters, tied ones counted once."""

    name: str
    method: str
    model: str
    dataset: str
    device: str
    seed: int
    config: dict
    trainable_parameters: int
    total_parameters: int
    versions: dict[str, str]


@dataclass
class StepRow:
    """One optimizer step. `loss` is the mean over its targets before the update, `grad_norm` is before clipping."""

    step: int  # 1 is the first
    epoch: float  # passes over the data completed: 0.5 is half-way through the first
    loss: float
    lr: float  # of the first parameter group, as used by this step
    grad_norm: float
    samples: int  # in this step
    tokens: int  # in this step, padding not counted; 0 if the batch has no attention_mask
    seconds: float  # of training since the start; evaluations do not count


@dataclass
class EvaluationRow:
    """One evaluation, after `step` optimizer steps."""

    step: int
    epoch: float
    seconds: float  # of training since the start, so that both kinds of row share an axis
    evaluation_seconds: float  # what this evaluation took
    metrics: dict[str, float]


@dataclass
class LayerRow:
    """One adapted layer after one optimizer step. Gradient norms are of that step, before clipping; 0 where the method
    has no trainable matrix of that name."""

    step: int
    layer: str  # its full name in the model
    grad_norm_A: float
    grad_norm_B: float
    singular_values: list[float]  # of its change of the weight, largest first, without those that are 0

    @property
    def norm(self) -> float:
        """The Frobenius norm of the change."""
        return math.hypot(*self.singular_values)

    @property
    def effective_rank(self) -> float:
        return effective_rank(self.singular_values)


@dataclass
class Summary:
    """Totals of a run. Rates are over training seconds: batching, forward, backward, update and checkpoints."""

    seconds: float
    evaluation_seconds: float
    steps: int
    samples: int
    samples_per_second: float
    steps_per_second: float
    peak_memory_bytes: int
    peak_memory_label: str  # what the bytes are a peak of
    stop_reason: str  # "finished", "early stopping" or "callback"
    best_step: int | None  # the step whose parameters the model holds, where early stopping put them back


@dataclass
class History:
    run: Run
    steps: list[StepRow] = field(default_factory=list)
    evaluations: list[EvaluationRow] = field(default_factory=list)
    resumed_at: list[int] = field(default_factory=list)  # steps after which the run went on from a checkpoint
    summary: Summary | None = None
    layers: list[LayerRow] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)  # what was found out besides: test_accuracy, peak_bytes …

    @property
    def parameter_reduction(self) -> float:
        """The fraction of parameters that was not trained: 0.99 means that 1 % was."""
        return 1 - self.run.trainable_parameters / self.run.total_parameters

    def rows(self) -> list[dict]:
        """The steps as flat dicts, each with `run` and `method`, so that several runs go into one table."""
        return [{**self._labels(), **asdict(row)} for row in self.steps]

    def evaluation_rows(self) -> list[dict]:
        """The evaluations as flat dicts: run, method, step, epoch, seconds and one key per metric."""
        return [
            {**self._labels(), "step": e.step, "epoch": e.epoch, "seconds": e.seconds, **e.metrics}
            for e in self.evaluations
        ]

    def layer_rows(self) -> list[dict]:
        """The layers as flat dicts: run, method, step, layer, both gradient norms, norm and effective_rank."""
        return [
            {
                **self._labels(),
                "step": row.step,
                "layer": row.layer,
                "grad_norm_A": row.grad_norm_A,
                "grad_norm_B": row.grad_norm_B,
                "norm": row.norm,
                "effective_rank": row.effective_rank,
            }
            for row in self.layers
        ]

    def _labels(self) -> dict:
        return {"run": self.run.name, "method": self.run.method}

    def to_dict(self) -> dict:
        """Plain dicts, lists, numbers and strings; `from_dict` reads it back."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, data: dict) -> History:
        """Raises ValueError for another schema version, or for fields that are missing or unknown."""
        if not isinstance(data, dict) or "schema" not in data:
            raise ValueError('this is not a training history: it has no "schema" field')
        if data["schema"] == 1:
            data = {"layers": [], "measured": {}, **data, "schema": SCHEMA}
        if data["schema"] != SCHEMA:
            raise ValueError(
                f"the history has schema {data['schema']!r}, and this version of lora_course reads "
                f"schema {SCHEMA}: read it with the version that wrote it, or run the training again"
            )
        data = {key: value for key, value in data.items() if key != "schema"}
        history = _strict(cls, data, "history")
        history.run = _strict(Run, history.run, "run")
        history.steps = [_strict(StepRow, row, f"steps[{i}]") for i, row in enumerate(history.steps)]
        history.evaluations = [
            _strict(EvaluationRow, row, f"evaluations[{i}]") for i, row in enumerate(history.evaluations)
        ]
        history.layers = [_strict(LayerRow, row, f"layers[{i}]") for i, row in enumerate(history.layers)]
        if history.summary is not None:
            history.summary = _strict(Summary, history.summary, "summary")
        return history

    def save(self, path: str | Path) -> None:
        """Write JSON. The file at `path` is the old one or the new one, never half of either.

        A metric that is not finite is written as NaN or Infinity, as Python's json module does.
        """
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_files({Path(path): text})

    @classmethod
    def load(cls, path: str | Path) -> History:
        """Read what `save` wrote. Raises ValueError, naming the file, if it is not JSON or not this schema."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
            raise ValueError(f"{path}: {error}") from error

    def __str__(self) -> str:
        run, s = self.run, self.summary
        lines = [
            f"{run.name}: {run.method} on {run.model}, data {run.dataset}, seed {run.seed}",
            f"  on {run.device}",
            f"  {run.trainable_parameters:,} of {run.total_parameters:,} parameters trained: "
            f"{100 * self.parameter_reduction:.2f} % fewer than all",
        ]
        if s is not None:
            lines += [
                f"  {s.steps} steps in {s.seconds:.1f} s ({s.samples_per_second:.1f} samples/s, "
                f"{s.steps_per_second:.2f} steps/s), evaluation {s.evaluation_seconds:.1f} s, {s.stop_reason}",
                f"  {s.peak_memory_bytes / 2**20:.0f} MiB {s.peak_memory_label}",
            ]
        return "\n".join(lines)


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide a run's numbers; those not installed are left out."""
    versions = {"python": platform.python_version()}
    for name in ("lora_course", "torch", "transformers", "datasets", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _strict(cls: type, data: dict, where: str):
    if not isinstance(data, dict):
        raise ValueError(f"{where} must be an object with fields, found {type(data).__name__}")
    known = {f.name for f in fields(cls)}
    if missing := sorted(known - data.keys()):
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    if unknown := sorted(data.keys() - known):
        raise ValueError(f"{where} has unknown fields {', '.join(unknown)}")
    return cls(**data)
