"""Pooling through oneDNN."""

from __future__ import annotations

from lamina.backends.cpu.library_layout import library_layout
from lamina.backends.cpu.onednn.pooling import Pooling
from lamina.backends.cpu.tactics.library_step import library_draft
from lamina.backends.cpu.target import CpuTarget
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ops import Pool
from lamina.ops.kinds import PoolKind
from lamina.tactics.candidate import Candidate, Draft, Placement, Read, Write, sizes_known
from lamina.tactics.form import Form

_BYTES_PER_MICROSECOND = 1e4
_AVERAGE_TYPES = (DType.F32, DType.BF16)
_MAXIMUM_TYPES = (*_AVERAGE_TYPES, DType.I8, DType.U8)


class LibraryPooling:
    """oneDNN's maximum and average pooling."""

    name = "onednn"

    def candidates(self, node: Node, target: CpuTarget) -> list[Candidate] | Reject | None:
        """Offer every form of the operand."""
        op = node.op
        if not isinstance(op, Pool):
            return None
        if target.library is None:
            return Reject("oneDNN is not available")
        x, y = node.inputs[0].tensor, node.output.tensor
        if op.kind is PoolKind.LP:
            return Reject("oneDNN has no Lp pooling")
        types = _MAXIMUM_TYPES if op.kind is PoolKind.MAX else _AVERAGE_TYPES
        if x.dtype not in types or not isinstance(x.shape[1], int):
            wanted = " or ".join(t.value for t in types)
            return Reject(f"needs {wanted} and known channels, got {x}")
        if not sizes_known(node, target.env):
            return Reject("data decides a size")
        if op.ceil_mode:
            return Reject("a window may reach beyond the padding (ceil_mode)")
        size = y.substitute(dict(target.env)).size
        cost = float(size if isinstance(size, int) else 1) * 8 / _BYTES_PER_MICROSECOND
        average = "average_include_padding" if op.count_include_pad else "average_exclude_padding"
        algorithm = "max" if op.kind is PoolKind.MAX else average

        def draft(p: Placement) -> Draft:
            spec = Pooling(
                library_layout(x, p.operands[0]),
                library_layout(y, p.results[0]),
                op.kernel,
                op.strides,
                op.dilations,
                op.pads_begin,
                op.pads_end,
                algorithm,
            )
            return library_draft(target, spec, {"src": Read(0), "dst": Write(0)}, {})

        return [
            Candidate("onednn", (form,), (form,), cost, draft)
            for form in target.forms(x)
            if form is not Form.PLAIN or x.rank == 4
        ]
