"""One application of an operator to concrete arrays; tests of all operators use them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lamina.ir.graph import Array, Op


@dataclass(frozen=True)
class OnnxForm:
    """The ONNX node that means the same.

    ``inputs`` lists operand indices or arrays, None for absent ones.  ``runtime`` compares with
    ONNX Runtime, where the reference evaluator is known to be wrong.
    """

    op_type: str
    attributes: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Any, ...] | None = None
    outputs: int = 1
    opset: int = 23
    runtime: bool = False


@dataclass(frozen=True)
class Sample:
    """An operator with operands.

    ``symbolic`` is whether the typing rule takes symbols for every size; ``onnx`` is the node to
    compare with, ``expected`` the exact results when they are written down by hand.
    """

    op: Op
    inputs: tuple[Array, ...]
    symbolic: bool = True
    onnx: OnnxForm | None = None
    expected: tuple[Array, ...] | None = None
    label: str = ""

    def __str__(self) -> str:
        shapes = ",".join("x".join(map(str, np.shape(x))) for x in self.inputs)
        text = f"{self.op}"[:80]
        return f"{text} {shapes} {self.label}".strip()


def sample(
    op: Op,
    *inputs: Any,
    symbolic: bool = True,
    onnx: OnnxForm | None = None,
    expected: Any = None,
    label: str = "",
) -> Sample:
    """Shorthand for a Sample; one expected array may come without a tuple."""
    if expected is not None and not isinstance(expected, tuple):
        expected = (expected,)
    return Sample(op, tuple(np.asarray(x) for x in inputs), symbolic, onnx, expected, label)


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32, scale: float = 1.0) -> Array:
    """Return normal numbers; never zeros."""
    return np.asarray(np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)


def integers(
    *shape: int, low: int = -9, high: int = 9, seed: int = 0, dtype: Any = np.int64
) -> Array:
    """Return integers of ``[low, high]``."""
    return np.random.default_rng(seed).integers(low, high, shape, endpoint=True).astype(dtype)
