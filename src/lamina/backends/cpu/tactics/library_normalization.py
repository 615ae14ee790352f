"""Softmax and layer normalization through oneDNN, where they stand alone."""

from __future__ import annotations

from lamina.backends.cpu.library_layout import library_layout
from lamina.backends.cpu.onednn.normalization import LayerNormalization
from lamina.backends.cpu.onednn.normalization import Softmax as LibrarySoftmax
from lamina.backends.cpu.tactics.library_step import library_draft
from lamina.backends.cpu.target import CpuTarget
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ops import LayerNorm, Softmax
from lamina.tactics.candidate import Candidate, Draft, Placement, Read, Role, Write, sizes_known
from lamina.tactics.form import Form

_BYTES_PER_MICROSECOND = 8e3
_MOST_AXES = 5


class LibraryNormalization:
    """oneDNN's softmax and layer normalization of row-major tensors."""

    name = "onednn"

    def candidates(self, node: Node, target: CpuTarget) -> list[Candidate] | Reject | None:
        """Offer the one form that they have."""
        op = node.op
        if not isinstance(op, Softmax | LayerNorm):
            return None
        if target.library is None:
            return Reject("oneDNN is not available")
        x = node.inputs[0].tensor
        if x.dtype is not DType.F32:
            return Reject(f"needs f32, got {x}")
        if not sizes_known(node, target.env):
            return Reject("data decides a size")
        if isinstance(op, LayerNorm) and (why := _why_not(node, op)):
            return Reject(why)
        size = x.substitute(dict(target.env)).size
        cost = float(size if isinstance(size, int) else 1) * 8 / _BYTES_PER_MICROSECOND
        reads = (Form.PLAIN,) * len(node.inputs)

        def draft(p: Placement) -> Draft:
            source, result = library_layout(x, p.operands[0]), library_layout(x, p.results[0])
            arguments: dict[str, Role] = {"src": Read(0), "dst": Write(0)}
            if isinstance(op, Softmax):
                kind = "logsoftmax" if op.log else "softmax"
                spec = LibrarySoftmax(source, result, op.axis, kind)
                return library_draft(target, spec, arguments, {})
            names = ("scale", "shift")[: len(node.inputs) - 1]
            arguments |= {name: Read(i) for i, name in enumerate(names, 1)}
            affine = ("scale" in names, "shift" in names)
            return library_draft(
                target, LayerNormalization(source, result, op.epsilon, *affine), arguments, {}
            )

        return [Candidate("onednn", reads, (Form.PLAIN,), cost, draft)]


def _why_not(node: Node, op: LayerNorm) -> str:
    x = node.inputs[0].tensor
    if op.axis != x.rank - 1 or not 2 <= x.rank <= _MOST_AXES:
        return "oneDNN normalizes the last of two to five axes"
    if any(v.tensor.shape != x.shape[-1:] for v in node.inputs[1:]):
        return "scale and shift are no vectors of the last axis"
    return ""
