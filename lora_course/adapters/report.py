"""How much of a model is trained: counted, not estimated. A weight shared by two layers counts once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from lora_course.adapters.base import is_packed
from lora_course.adapters.inject import adapters
from lora_course.tables import html_table, text_table


@dataclass(frozen=True)
class ReportRow:
    part: str
    trainable: int
    frozen: int
    bytes: int


@dataclass(frozen=True, repr=False)
class ParameterReport:
    """Numbers by part of the model: parameters, and what adapters hold beside them (a frozen A, VeRA's shared pair).

    Prints as a table; a notebook shows the same table.
    """

    rows: tuple[ReportRow, ...]

    @property
    def trainable(self) -> int:
        return sum(row.trainable for row in self.rows)

    @property
    def frozen(self) -> int:
        return sum(row.frozen for row in self.rows)

    @property
    def total(self) -> int:
        return self.trainable + self.frozen

    @property
    def bytes(self) -> int:
        """Bytes that all of them take in memory."""
        return sum(row.bytes for row in self.rows)

    @property
    def percent(self) -> float:
        """Trainable parameters as a percentage of all, adapters included."""
        return 100 * self.trainable / self.total if self.total else 0.0

    def _cells(self) -> list[tuple[str, str, str, str, str]]:
        def cells(name, trainable, frozen, size):
            share = 100 * trainable / self.total if self.total else 0.0
            return name, f"{trainable:,}", f"{frozen:,}", f"{share:.2f} %", f"{size / 2**20:.1f} MiB"

        rows = [cells(row.part, row.trainable, row.frozen, row.bytes) for row in self.rows]
        return [*rows, cells("all", self.trainable, self.frozen, self.bytes)]

    def __repr__(self) -> str:
        return text_table([HEADER, *self._cells()])

    def _repr_html_(self) -> str:
        return html_table([HEADER, *self._cells()])


HEADER = ("part", "trainable", "frozen", "trained", "memory")


def parameter_report(model: nn.Module) -> ParameterReport:
    """Count the numbers in adapters, in trained modules (heads) and in the frozen base.

    A quantized base counts as the weights that it stands for, and the bytes that they are packed in.
    """
    own = {id(t): t for adapter in adapters(model).values() for _, t in adapter.own_tensors() if t.is_floating_point()}
    rows = {part: [0, 0, 0] for part in ("adapters", "trained whole", "frozen base")}
    for t in (*own.values(), *(p for p in model.parameters() if id(p) not in own)):
        part = "adapters" if id(t) in own else "trained whole" if t.requires_grad else "frozen base"
        rows[part][0 if t.requires_grad else 1] += t.numel()
        rows[part][2] += t.numel() * t.element_size()
    for layer in (m for m in model.modules() if is_packed(m)):
        rows["frozen base"][1] += layer.in_features * layer.out_features
        rows["frozen base"][2] += layer.packed_bytes()
    return ParameterReport(tuple(ReportRow(part, *counts) for part, counts in rows.items() if counts[2]))
