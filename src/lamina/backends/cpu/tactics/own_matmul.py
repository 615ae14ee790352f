"""Matrix products with constant weights, through Lamina's own kernel: of few rows, with oneDNN.

With few rows the time is that of reading the weights, which are packed in the order of reading.
"""

from __future__ import annotations

from dataclasses import asdict
from math import prod

import numpy as np

from lamina.backends.cpu.kernels import gemm
from lamina.backends.cpu.kernels.convolution import Epilogue
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.llvm.builder import Module
from lamina.ir.dims import product
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.traced import asarray
from lamina.ir.types import DType
from lamina.ir.weight import Weight
from lamina.ops import Matmul
from lamina.plan.plan import StepKind
from lamina.tactics.candidate import (
    Blob,
    Candidate,
    Draft,
    Packed,
    Placement,
    Read,
    Role,
    Scratch,
    Write,
    constant,
)
from lamina.tactics.form import Form

_MOST_ROWS = 8
_BYTES_PER_MICROSECOND = 3e4


class OwnMatmul:
    """The packed matrix product of :mod:`lamina.backends.cpu.kernels.gemm`."""

    name = "lamina"

    def candidates(self, node: Node, target: CpuTarget) -> list[Candidate] | Reject | None:
        """Offer each configuration on row-major operands."""
        op = node.op
        if not isinstance(op, Matmul):
            return None
        if reason := _refusal(node, op, target):
            return Reject(reason)
        problem = _problem(node, op)
        if why := gemm.why_not(problem):
            return Reject(why)
        item = node.inputs[1].tensor.dtype.numpy.itemsize
        cost = float(item * problem.depth * problem.columns) / _BYTES_PER_MICROSECOND
        return [
            _candidate(node, op, target, problem, config, cost)
            for config in gemm.configs(problem, target.isa, target.threads)
        ]


def _refusal(node: Node, op: Matmul, target: CpuTarget) -> str | None:
    a, b, y = (v.tensor for v in (*node.inputs[:2], node.output))
    if a.dtype not in (DType.F32, DType.BF16) or y.dtype is not a.dtype:
        return f"needs f32 or bf16, got {a.dtype} to {y.dtype}"
    if constant(node.inputs[1]) is None or b.rank != 2 or op.transpose_a:
        return "the second operand is no constant matrix"
    if not all(v.tensor.is_static for v in (*node.inputs, node.output)):
        return "needs static shapes"
    rows = product(a.static_shape[:-1])
    if not isinstance(rows, int) or 0 in (rows, *b.static_shape):
        return "an operand is empty"
    if rows > _MOST_ROWS and target.library is not None:
        return f"oneDNN is better at {rows} rows"
    for i, role in enumerate(_addends(node)):
        if role is None:
            shape = node.inputs[2 + i].tensor.static_shape
            return f"cannot add shape {shape} to {y.static_shape}"
    if any(_is_narrow_bias(node, i) for i in range(2, len(node.inputs))):
        return "the bias is neither constant nor f32"
    if len(set(_addends(node))) < len(node.inputs) - 2:
        return "adds two operands of one kind"
    return None


def _addends(node: Node) -> list[str | None]:
    """Return for each further operand whether it is a bias row, a residual, or neither (None)."""
    y = node.output.tensor.static_shape
    found: list[str | None] = []
    for v in node.inputs[2:]:
        shape = v.tensor.static_shape
        if shape == y and np.prod(y[:-1]) > 1:
            found.append("residual")
        elif shape and shape[-1] == y[-1] and all(d == 1 for d in shape[:-1]):
            found.append("bias" if "bias" not in found else "residual")
        else:
            found.append(None)
    return found


def _is_narrow_bias(node: Node, i: int) -> bool:
    """Tell whether an operand is a bias that the kernel cannot read: it expects f32."""
    v = node.inputs[i]
    is_bias = _addends(node)[i - 2] == "bias"
    return is_bias and constant(v) is None and v.tensor.dtype is not DType.F32


def _problem(node: Node, op: Matmul) -> gemm.GemmProblem:
    *lead, depth = node.inputs[0].tensor.static_shape
    columns = node.output.tensor.static_shape[-1]
    dtype = node.output.tensor.dtype
    item = dtype.numpy.itemsize
    fused = op.activation
    roles = _addends(node)
    return gemm.GemmProblem(
        rows=int(np.prod(lead)),
        depth=depth,
        columns=columns,
        src_stride=depth * item,
        dst_stride=columns * item,
        weights=node.inputs[1].tensor.dtype.value,
        bias="bias" in roles,
        residual_stride=columns * item if "residual" in roles else None,
        activation=Epilogue(fused.kind.value, fused.alpha, fused.beta) if fused else None,
        dtype=dtype.value,
    )


def _candidate(
    node: Node,
    op: Matmul,
    target: CpuTarget,
    problem: gemm.GemmProblem,
    config: gemm.GemmConfig,
    cost: float,
) -> Candidate:
    text = ",".join(f"{k}={v}" for k, v in asdict(config).items())
    reads: list[Form | None] = [Form.PLAIN, None, Form.PLAIN, Form.PLAIN]

    def draft(p: Placement) -> Draft:
        module = Module(target.isa)
        symbols = gemm.build(module, p.name, problem, config)
        weights = constant(node.inputs[1])
        assert weights is not None
        array = weights.array

        def pack() -> Weight:
            matrix = asarray(array.T if op.transpose_b else array, np.float32)
            return Weight(gemm.pack_weights(matrix, problem, config, target.isa))

        dtype = node.inputs[1].tensor.dtype
        size = dtype.itemsize * prod(gemm.packed_shape(problem, config, target.isa))
        roles: dict[str, Role] = {
            "src": Read(0), "weights": Packed(dtype, size, pack),
            "dst": Write(0), "workspace": Scratch(),
        }  # fmt: skip
        for i, name in enumerate(_addends(node), start=2):
            fixed = constant(node.inputs[i]) if name == "bias" else None
            row = None if fixed is None else asarray(fixed.array, np.float32).reshape(-1)
            roles[str(name)] = Read(i) if row is None else Blob(Weight(row))
        return Draft(
            kind=StepKind.KERNEL,
            arguments=tuple(roles[name] for name in problem.operands),
            symbols=symbols,
            threads=target.threads,
            workspace_bytes=gemm.workspace_bytes(problem, config, target.isa, target.threads),
            module=str(module),
        )

    name = f"gemm({text})"
    return Candidate(name, tuple(reads[: len(node.inputs)]), (Form.PLAIN,), cost, draft)
