"""Matrix products through oneDNN."""

from __future__ import annotations

import numpy as np

from lamina.backends.cpu.onednn.matmul import MatMul
from lamina.backends.cpu.onednn.memory import Layout as LibraryLayout
from lamina.backends.cpu.tactics.library_contraction import (
    estimate_microseconds,
    post_operations,
    refusal,
)
from lamina.backends.cpu.tactics.library_step import library_draft
from lamina.backends.cpu.target import CpuTarget
from lamina.ir.dims import Dim, is_static, product
from lamina.ir.graph import Node, Value
from lamina.ir.pattern import Reject
from lamina.ir.types import TensorType
from lamina.ops import Matmul
from lamina.tactics.candidate import Candidate, Draft, Placement, Read, Role, Write, constant
from lamina.tactics.form import Form

_MOST_DIMENSIONS = 12


class LibraryMatmul:
    """oneDNN's matmul with bias, residual and activation fused; constant operands packed."""

    name = "onednn"

    def candidates(self, node: Node, target: CpuTarget) -> list[Candidate] | Reject | None:
        """Offer one candidate on row-major operands."""
        op = node.op
        if not isinstance(op, Matmul):
            return None
        if reason := refusal(node, op.activation, target) or _refusal(node):
            return Reject(reason)
        y = node.output.tensor.substitute(dict(target.env))
        k = node.inputs[0].tensor.substitute(dict(target.env)).shape[-2 if op.transpose_a else -1]
        work = product((*y.shape, k))
        packed = _is_packed(node)
        reads = [Form.PLAIN, None if packed else Form.PLAIN, Form.PLAIN, Form.PLAIN]

        def draft(p: Placement) -> Draft:
            return _draft(node, op, target)

        cost = estimate_microseconds(work)
        return [Candidate("onednn", tuple(reads[: len(node.inputs)]), (Form.PLAIN,), cost, draft)]


def _refusal(node: Node) -> str | None:
    if node.output.tensor.rank > _MOST_DIMENSIONS:
        return f"oneDNN takes at most {_MOST_DIMENSIONS} dimensions"
    if any(0 in v.tensor.shape for v in (*node.inputs, node.output)):
        return "an operand is empty"
    return None


def _is_packed(node: Node) -> bool:
    return constant(node.inputs[1]) is not None and node.inputs[1].tensor.rank == 2


def _collapsed(node: Node) -> Dim | None:
    """Return the rows of a when its leading axes can be one axis (2-D weights), else None."""
    a, b = node.inputs[0].tensor, node.inputs[1].tensor
    op = node.op
    assert isinstance(op, Matmul)
    if b.rank != 2 or op.transpose_a:
        return None
    full = node.output.tensor.shape
    for v in node.inputs[2:]:
        shape = v.tensor.shape
        if shape != full and any(d != 1 for d in shape[:-1]):
            return None
    return product(a.shape[:-1])


def _matrix(type: TensorType, transpose: bool, rank: int) -> LibraryLayout:
    """Return a (transposed) row-major operand with leading axes of 1 up to ``rank``."""
    shape: tuple[Dim, ...] = (1,) * (rank - type.rank) + type.shape
    strides = list(LibraryLayout.dense(shape).strides or ())  # type: ignore[arg-type]
    dims = list(shape)
    if transpose:
        dims[-2:], strides[-2:] = dims[:-3:-1], strides[:-3:-1]
    return LibraryLayout(tuple(dims), type.dtype.value, strides=tuple(strides))  # type: ignore[arg-type]


def _draft(node: Node, op: Matmul, target: CpuTarget) -> Draft:
    rows = _collapsed(node)
    y = node.output.tensor
    rank = 2 if rows is not None else y.rank

    def flat(v: Value) -> TensorType:
        """Return the type with its leading axes collapsed when the whole product is 2-D."""
        t = v.tensor
        if rows is None:
            return t
        full = t.shape == y.shape and t.rank > 2
        if v is node.inputs[0] or full:
            return t.with_shape((rows, t.shape[-1]))
        return t.with_shape(t.shape[-2:])

    left = flat(node.inputs[0])
    depth = node.inputs[1].tensor.shape[-1 if op.transpose_b else -2]
    if is_static(depth):  # what a has there is perhaps a symbol that can only be this
        shape = list(left.shape)
        shape[-2 if op.transpose_a else -1] = depth
        left = left.with_shape(tuple(shape))
    out = flat(node.output) if rows is None else y.with_shape((rows, y.shape[-1]))
    arguments: dict[str, Role] = {"src": Read(0), "weights": Read(1)}
    packed: dict[str, np.ndarray] = {}
    weights = _matrix(flat(node.inputs[1]), op.transpose_b, rank)
    if _is_packed(node):
        array = constant(node.inputs[1]).array  # type: ignore[union-attr]
        array = array.T if op.transpose_b else array
        array = array.reshape((1,) * (rank - 2) + array.shape)
        packed["weights"] = array
        weights = LibraryLayout.any(array.shape, weights.dtype)
    arguments["dst"] = Write(0)
    residuals = []
    bias = None
    for i in range(2, len(node.inputs)):
        operand = flat(node.inputs[i])
        if i == 2 and operand.size == y.shape[-1] == operand.shape[-1]:
            bias = _matrix(operand, False, rank)
            arguments["bias"] = Read(i)
            continue
        residuals.append((i, _matrix(operand, False, rank)))
    spec = MatMul(
        _matrix(left, op.transpose_a, rank),
        weights,
        _matrix(out, False, rank),
        bias,
        attributes=post_operations(arguments, residuals, op.activation),
    )
    return library_draft(target, spec, arguments, packed)
