"""What functions that compile kernels ahead of time return."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lamina.ir.dims import Dim
from lamina.tensorrt.enums import PluginArgDataType, PluginArgType
from lamina.tensorrt.plugin_api.expressions import IDimensionExpr
from lamina.tensorrt.plugin_api.quick_types import ShapeExpr


@dataclass
class KernelLaunchParams:
    """Grid, block and shared memory of a launch; sizes may be expressions."""

    grid_x: Any = 1
    grid_y: Any = 1
    grid_z: Any = 1
    block_x: Any = 1
    block_y: Any = 1
    block_z: Any = 1
    shared_mem: Any = 0


class ISymExpr:
    """A symbolic argument of a kernel."""

    def __init__(self, value: Any = 0) -> None:
        """Take the value."""
        self.expr: Any = ShapeExpr(value)
        self.type = PluginArgType.named("INT")
        self.dtype = PluginArgDataType.named(self._width)

    _width = "INT32"


def size(value: Any) -> Dim:
    """Return a number or an expression, however a plugin wrote it."""
    if isinstance(value, IDimensionExpr):
        return value._dim
    return ShapeExpr(value)._dim


def argument(item: Any) -> tuple[Dim, str]:
    """Return the value and the integer type of an argument; TypeError for anything else."""
    if isinstance(item, ISymExpr):
        return size(item.expr), _TYPES[item.dtype.name]
    if isinstance(item, ShapeExpr | IDimensionExpr):
        return item._dim, "i32"
    if isinstance(item, int) and not isinstance(item, bool):
        return item, "i32"
    raise TypeError(f"{item!r} is no argument of a kernel: expected SymInt32 and the like")


_TYPES = {"INT8": "i8", "INT16": "i16", "INT32": "i32"}


class SymInt8(ISymExpr):
    """An argument of 8 bits."""

    _width = "INT8"


class SymInt16(ISymExpr):
    """An argument of 16 bits."""

    _width = "INT16"


class ISymExprs:
    """Symbolic arguments of a kernel in order."""

    def __init__(self, count: int = 0) -> None:
        """Take how many there will be."""
        self._items: list[Any] = [None] * count

    @property
    def nbSymExprs(self) -> int:
        """Number of arguments."""
        return len(self._items)

    @nbSymExprs.setter
    def nbSymExprs(self, value: int) -> None:
        self._items = (self._items + [None] * value)[:value]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        return self._items[index]

    def __setitem__(self, index: int, value: Any) -> None:
        self._items[index] = value


class SymIntExprs(ISymExprs):
    """Whole-number arguments of a kernel."""

    @classmethod
    def from_tuple(cls, items: Iterable[Any]) -> SymIntExprs:
        """Return arguments in order; TypeError for what is no whole number or expression."""
        found = cls()
        found._items = list(items)
        for item in found._items:
            if not isinstance(item, int | ShapeExpr | ISymExpr):
                raise TypeError(f"SymIntExprs: expected whole numbers, got {item!r}")
        return found


SymExprs = SymIntExprs


__all__ = ["ISymExpr", "ISymExprs", "KernelLaunchParams"]
