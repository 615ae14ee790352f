"""Recurrent layers through Lamina's own kernels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from lamina.backends.cpu.kernels import recurrent, recurrent_layout
from lamina.backends.cpu.kernels.convolution import Epilogue
from lamina.backends.cpu.kernels.recurrent_layout import RecurrentConfig, RecurrentProblem
from lamina.backends.cpu.target import CpuTarget
from lamina.codegen.llvm.builder import Module
from lamina.codegen.llvm.target import Isa
from lamina.ir.dims import Dim, evaluate, is_static
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.traced import asarray
from lamina.ir.types import DType
from lamina.ir.weight import Weight
from lamina.ops import Direction, Recurrent, RecurrentKind
from lamina.plan.plan import StepKind
from lamina.tactics.candidate import (
    Blob,
    Candidate,
    Draft,
    Placement,
    Read,
    Role,
    Scratch,
    Write,
    constant,
    sizes_known,
)
from lamina.tactics.form import Form

_BYTES_PER_MICROSECOND = 5e4
_STEM = "stem_of_recurrent"
_REVERSE = {
    Direction.FORWARD: (False,),
    Direction.REVERSE: (True,),
    Direction.BIDIRECTIONAL: (False, True),
}


class OwnRecurrent:
    """The kernels of :mod:`lamina.backends.cpu.kernels.recurrent`."""

    name = "lamina"

    def candidates(self, node: Node, target: CpuTarget) -> list[Candidate] | Reject | None:
        """Offer its configurations for layers with constant weights."""
        op = node.op
        if not isinstance(op, Recurrent):
            return None
        if reason := _refusal(node, op):
            return Reject(reason)
        problem = _problem(node, op, target.isa)
        if reason := recurrent.why_not(problem):
            return Reject(reason)
        known = sizes_known(node, target.env)
        time, batch = (evaluate(d, target.env) if known else 16 for d in _sizes(node))
        return [
            _candidate(node, target, problem, config, time)
            for config in recurrent.configs(problem, target.isa, time, batch, target.threads)
        ]


def _sizes(node: Node) -> tuple[Dim, ...]:
    return node.inputs[0].tensor.shape[:2]


def _refusal(node: Node, op: Recurrent) -> str | None:
    x = node.inputs[0].tensor
    if x.dtype is not DType.F32:
        return f"needs f32, got {x.dtype}"
    if any(constant(v) is None for v in node.inputs[1:4]):
        return "the weights are not constant"
    if len(node.inputs) > 7 and constant(node.inputs[7]) is None:
        return "the peephole weights are not constant"
    if not is_static(x.shape[2]) or 0 in (*x.shape, op.hidden_size):
        return "the size of the input is not known or 0"
    return None


def _problem(node: Node, op: Recurrent, isa: Isa) -> RecurrentProblem:
    time, batch, inputs = node.inputs[0].tensor.shape
    factors = op.factors.value
    return RecurrentProblem(
        kind=op.kind.value,
        time=time,
        batch=batch,
        inputs=int(inputs),  # type: ignore[arg-type]
        hidden=op.hidden_size,
        reverse=_REVERSE[op.direction],
        activations=tuple(Epilogue(a.kind.value, a.alpha, a.beta) for a in op.activations),
        clip=op.clip,
        input_forget=op.input_forget,
        lengths=len(node.inputs) > 6,
        reset_first=op.kind is RecurrentKind.GRU and not op.linear_before_reset,
        peephole=op.kind is RecurrentKind.LSTM and len(node.inputs) > 7,
        factors=factors if recurrent.multiplies(isa, factors) else "f32",
    )


def _candidate(
    node: Node, target: CpuTarget, problem: RecurrentProblem, config: RecurrentConfig, time: int
) -> Candidate:
    def draft(p: Placement) -> Draft:
        return _draft(node, target, problem, config, p)

    weights = node.inputs[2].tensor
    cost = time * weights.static_shape[1] * weights.static_shape[2] * 4 / _BYTES_PER_MICROSECOND
    reads: list[Form | None] = [Form.PLAIN, None, None, None, *[Form.PLAIN] * 3, None]
    kind, inputs = "bf16," if problem.paired else "", config.product
    return Candidate(
        f"recurrent({kind}rows={config.rows},blocks={config.blocks},"
        f"inputs={inputs.rows}x{inputs.vectors})",
        tuple(reads[: len(node.inputs)]),
        (Form.PLAIN,) * 3,
        cost,
        draft,
    )


def _draft(
    node: Node,
    target: CpuTarget,
    problem: RecurrentProblem,
    config: RecurrentConfig,
    p: Placement,
) -> Draft:
    isa, threads = target.isa, target.threads
    text, symbols = _code(problem, config, isa, threads)
    w, r, b = (asarray(constant(v).array, np.float32) for v in node.inputs[1:4])  # type: ignore[union-attr]
    packed = recurrent_layout.pack(w, r, b, problem, config, isa)
    if problem.peephole:
        holes = asarray(constant(node.inputs[7]).array, np.float32)  # type: ignore[union-attr]
        packed["peephole"] = recurrent_layout.pack_peephole(holes, problem, config, isa)
    roles: dict[str, Role] = {
        "x": Read(0),
        "h0": Read(4),
        "c0": Read(5),
        "lengths": Read(6),
        "y": Write(0),
        "h": Write(1),
        "c": Write(2),
        "workspace": Scratch(),
    }
    roles |= {name: Blob(Weight(array)) for name, array in packed.items()}
    return Draft(
        kind=StepKind.KERNEL,
        arguments=tuple(roles[name] for name in problem.operands),
        symbols=tuple(s.replace(_STEM, p.name) for s in symbols),
        parameters=recurrent_layout.parameters(problem, config, isa, threads),
        threads=threads,
        workspace_bytes=recurrent_layout.workspace_bytes(problem, config, isa, threads),
        module=text.replace(_STEM, p.name),
    )


@lru_cache(maxsize=32)
def _code(
    problem: RecurrentProblem, config: RecurrentConfig, isa: Isa, threads: int
) -> tuple[str, tuple[str, ...]]:
    module = Module(isa)
    symbols = recurrent.build(module, _STEM, problem, config, threads)
    return str(module), tuple(symbols)
