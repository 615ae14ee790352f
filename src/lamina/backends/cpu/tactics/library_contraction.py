"""What convolutions and matrix products through oneDNN share: refusals, residuals, activations."""

from __future__ import annotations

from collections.abc import Iterable

from lamina.backends.cpu.onednn.attributes import Attributes, BinaryPostOp, PostOp
from lamina.backends.cpu.onednn.memory import Layout
from lamina.backends.cpu.tactics.library_step import eltwise
from lamina.backends.cpu.target import CpuTarget
from lamina.ir.dims import Dim
from lamina.ir.graph import Node
from lamina.ir.types import DType
from lamina.ops import Epilogue
from lamina.tactics.candidate import Read, Role, sizes_known

_FLOPS_PER_MICROSECOND = 1e5


def estimate_microseconds(multiply_adds: Dim) -> float:
    """Return a rough time; symbolic numbers count as one."""
    return (
        2
        * (float(multiply_adds) if isinstance(multiply_adds, int) else 1.0)
        / (_FLOPS_PER_MICROSECOND)
    )


def refusal(node: Node, activation: Epilogue | None, target: CpuTarget) -> str | None:
    """Return why the library cannot compute a contraction on this machine, None when it can."""
    x = node.inputs[0].tensor
    if target.library is None:
        return "oneDNN is not available"
    if not sizes_known(node, target.env):
        return "data decides a size"
    if x.dtype not in (DType.F32, DType.BF16):
        return f"needs f32 or bf16, got {x.dtype}"
    if x.dtype is DType.BF16 and not target.isa.has("avx512bf16"):
        return "this CPU has no bf16 arithmetic"
    if activation is not None and eltwise(activation) is None:
        return f"oneDNN has no activation {activation.kind}"
    return None


def post_operations(
    arguments: dict[str, Role],
    residuals: Iterable[tuple[int, Layout]],
    activation: Epilogue | None,
) -> Attributes:
    """Add operands (by number, with their layouts) and the activation behind a contraction.

    The operands become further ``arguments``.
    """
    post_ops: list[PostOp] = []
    for number, layout in residuals:
        arguments[f"post_op[{len(post_ops)}]"] = Read(number)
        post_ops.append(BinaryPostOp("add", layout))
    if activation is not None and (fused := eltwise(activation)) is not None:
        post_ops.append(fused)
    return Attributes(post_ops=tuple(post_ops))
