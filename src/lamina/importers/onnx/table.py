"""Maps ONNX operator names and versions to functions that build our graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lamina.errors import ImportFailed

Importer = Callable[..., Any]


@dataclass(frozen=True)
class Row:
    """An importer with the number of operands that it takes."""

    importer: Importer
    required: int
    most: int | None

    def check(self, inputs: list[Any]) -> None:
        """Raise ImportFailed when an operand is missing or there are too many."""
        absent = [i for i in range(self.required) if i >= len(inputs) or inputs[i] is None]
        if absent:
            raise ImportFailed(
                f"input {absent[0]} is missing: {self.required} are required, "
                f"{sum(v is not None for v in inputs)} given"
            )
        if self.most is not None and len(inputs) > self.most:
            raise ImportFailed(f"at most {self.most} inputs are allowed, got {len(inputs)}")


class Table:
    """Importers of one family of operators; merged explicitly, never global."""

    def __init__(self, *families: Table) -> None:
        self.rows: dict[tuple[str, int], Row] = {}
        self._versions: dict[str, list[int]] = {}
        for family in families:
            for (name, since), row in family.rows.items():
                self._add(name, since, row)

    def op(self, *names: str, since: int = 1) -> Callable[[Importer], Importer]:
        """Register the decorated function for ``names`` from opset ``since`` on.

        Names outside the default domain are written ``domain::name``.
        """

        def add(f: Importer) -> Importer:
            row = _row(f)
            for name in names:
                self._add(name, since, row)
            return f

        return add

    def find(self, name: str, opset: int) -> Row | None:
        """Return the newest importer not newer than ``opset``, None when there is none."""
        fitting = [since for since in self._versions.get(name, ()) if since <= opset]
        return self.rows[name, max(fitting)] if fitting else None

    def names(self) -> Iterable[str]:
        """Return the operators that have an importer."""
        return self._versions.keys()

    def _add(self, name: str, since: int, row: Row) -> None:
        if (name, since) in self.rows:
            raise ValueError(f"{name} since {since} is declared twice")
        self.rows[name, since] = row
        self._versions.setdefault(name, []).append(since)


def _row(f: Importer) -> Row:
    operands = list(inspect.signature(f).parameters.values())[1:]
    variadic = any(p.kind is p.VAR_POSITIONAL for p in operands)
    required = sum(p.default is p.empty and p.kind is not p.VAR_POSITIONAL for p in operands)
    return Row(f, required, None if variadic else len(operands))
