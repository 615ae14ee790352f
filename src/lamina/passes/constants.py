"""Finding constants in patterns and making new ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lamina import ops
from lamina.ir.graph import Array, Op, Value
from lamina.ir.rewrite import Match, Pat, anything, match
from lamina.ir.threads import cast
from lamina.ir.traced import asarray, is_open
from lamina.ir.types import DType, TensorType

_UNIFORM_ELEMENTS = 4096

# Exporters print constants with the precision of their type, and sometimes by hand.
_RELATIVE = {DType.F16: 4e-3, DType.BF16: 1e-2, DType.F64: 1e-6, DType.F32: 1e-5}


def array_of(v: Value) -> Array | None:
    """Return the contents of a constant, None for everything else."""
    op = v.op
    return op.weight.array if isinstance(op, ops.Const) else None


def is_constant(v: Value) -> bool:
    """Whether the value is known at build time."""
    return isinstance(v.op, ops.Const)


def scalar_of(v: Value) -> float | None:
    """Return the number that a constant repeats (arrays of few elements only), else None."""
    a = array_of(v)
    if a is None or a.size == 0 or a.size > _UNIFORM_ELEMENTS or a.dtype == object:
        return None
    if a.size == 1:
        return float(np.asarray(a).reshape(-1)[0])
    if is_open(a):
        return None
    first = a.reshape(-1)[0]
    return float(first) if bool((a == first).all()) else None


def constant(test: Callable[[Array], bool] | None = None) -> Pat:
    """Match a constant (whose array passes ``test``)."""
    if test is None:
        return match(ops.Const)

    def passes(v: Value) -> bool:
        a = array_of(v)
        return a is not None and test(a)

    return anything(passes)


def scalar(*values: float) -> Pat:
    """Match a constant that repeats one number: any number, or one close to one of ``values``."""

    def fits(v: Value) -> bool:
        found = scalar_of(v)
        if found is None:
            return False
        return not values or any(is_close(found, wanted, v) for wanted in values)

    return anything(fits)


def is_close(found: float, wanted: float, v: Value) -> bool:
    """Whether ``found`` is ``wanted`` within the precision of the type of ``v``."""
    relative = _RELATIVE.get(v.tensor.dtype, 0.0)
    return abs(found - wanted) <= relative * abs(wanted)


def emit_constant(m: Match, array: npt.ArrayLike, dtype: DType) -> Value:
    """Add a constant of the given type."""
    return m.emit(ops.Const.of(asarray(array).astype(dtype.numpy, copy=False)))


def widened(a: Array) -> Array:
    """Return f16 and bf16 as f32, so that folded weights are rounded once."""
    return cast(a, np.float32) if a.dtype.itemsize < 4 and a.dtype.kind not in "iub" else a


def channel_vector(a: Array, shape: tuple[Any, ...], axis: int) -> Array | None:
    """Return ``a``, which broadcasts to ``shape``, as a vector along ``axis``.

    None when it varies along another axis, widens ``shape``, or the axis is symbolic.
    """
    size = shape[axis]
    if not isinstance(size, int) or a.ndim > len(shape):
        return None
    full = (1,) * (len(shape) - a.ndim) + a.shape
    if any(n != 1 for i, n in enumerate(full) if i != axis) or full[axis] not in (1, size):
        return None
    return np.broadcast_to(a.reshape(-1), (size,))


def nested_graphs_of(op: Op) -> bool:
    """Whether the operator holds graphs."""
    return isinstance(op, ops.If | ops.Loop | ops.Region)


def is_float(v: Value) -> bool:
    """Whether the value is a tensor of floats with arithmetic."""
    t = v.type
    return isinstance(t, TensorType) and t.dtype in (DType.F32, DType.F16, DType.BF16, DType.F64)
