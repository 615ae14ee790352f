"""Sizes that plugins compute with: expressions of Lamina's behind TensorRT's interface."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lamina.errors import GraphError
from lamina.ir.dims import Dim, Expr, ceildiv, dim_max, dim_min, floordiv
from lamina.tensorrt.enums import DimensionOperation

Fresh = Callable[[str], Dim]
"""Makes the symbol of a size that only the run tells, from a hint at its name."""


class IDimensionExpr:
    """A size: a number or an expression; made by IExprBuilder."""

    def __init__(self, dim: Dim, *, size_tensor: bool = False) -> None:
        self._dim = dim
        self._size_tensor = size_tensor

    def is_constant(self) -> bool:
        """Whether the size is a number."""
        return isinstance(self._dim, int)

    def get_constant_value(self) -> int:
        """Return the number; raises ValueError for an expression."""
        if not isinstance(self._dim, int):
            raise ValueError(f"{self._dim} is not a constant")  # noqa: TRY004 - its value is wrong
        return self._dim

    def is_size_tensor(self) -> bool:
        """Whether the size is what a scalar result of the plugin says."""
        return self._size_tensor

    def __repr__(self) -> str:
        return f"<IDimensionExpr {self._dim}>"


class DimsExprs:
    """Sizes of a tensor."""

    def __init__(self, dims: Iterable[IDimensionExpr] | int = ()) -> None:
        """Take sizes, or how many there will be."""
        if isinstance(dims, int):
            self._dims = [IDimensionExpr(0) for _ in range(dims)]
        else:
            self._dims = list(dims)

    def __len__(self) -> int:
        return len(self._dims)

    def __getitem__(self, index: Any) -> Any:
        return self._dims[index]

    def __setitem__(self, index: int, value: IDimensionExpr) -> None:
        self._dims[index] = value

    def __iter__(self) -> Iterator[IDimensionExpr]:
        return iter(self._dims)


def _comparison(less: bool) -> Callable[[Dim, Dim], Dim]:
    def compare(a: Dim, b: Dim) -> Dim:
        if isinstance(a, Expr) or isinstance(b, Expr):
            raise GraphError(f"{a} and {b} cannot be compared before the run")
        return int(a < b if less else a == b)

    return compare


_OPERATIONS: dict[str, Callable[[Dim, Dim], Dim]] = {
    "SUM": lambda a, b: a + b,
    "PROD": lambda a, b: a * b,
    "MAX": dim_max,
    "MIN": dim_min,
    "SUB": lambda a, b: a - b,
    "EQUAL": _comparison(less=False),
    "LESS": _comparison(less=True),
    "FLOOR_DIV": floordiv,
    "CEIL_DIV": ceildiv,
}


class IExprBuilder:
    """Makes sizes."""

    def __init__(self, fresh: Fresh | None = None) -> None:
        self._fresh = fresh
        self._sizes: dict[int, Dim] = {}
        """The size that each scalar result tells, by the number of the result."""

    def constant(self, value: int) -> IDimensionExpr:
        """Return a number."""
        return IDimensionExpr(int(value))

    def operation(
        self, op: DimensionOperation, first: IDimensionExpr, second: IDimensionExpr
    ) -> IDimensionExpr:
        """Return a function of two sizes; GraphError for comparisons of unknown sizes."""
        return IDimensionExpr(_OPERATIONS[op.name](first._dim, second._dim))

    def declare_size_tensor(
        self, output_index: int, opt: IDimensionExpr, upper: IDimensionExpr
    ) -> IDimensionExpr:
        """Return the size that scalar result ``output_index`` will tell, at most ``upper``.

        While an engine runs, this is ``upper``: memory for that much is there.
        """
        size = self._fresh(f"size_{output_index}") if self._fresh else upper._dim
        self._sizes[output_index] = size
        return IDimensionExpr(size, size_tensor=True)


__all__ = ["DimsExprs", "IDimensionExpr", "IExprBuilder"]
