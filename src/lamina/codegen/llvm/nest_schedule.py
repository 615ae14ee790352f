"""Chooses how a loop nest becomes vector code: which loop is vectorized, order, unrolling, work.

The choice is made by counting: for each candidate loop, what its loads and stores cost an element
when that loop is the vector (contiguous, broadcast, transposed in registers, or one lane at a
time), divided by how full its vectors are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lamina.codegen.llvm.scalar_llvm import register_type
from lamina.codegen.llvm.target import Isa
from lamina.codegen.nest import (
    Apply,
    Constant,
    Fold,
    Load,
    LoopNest,
    Scan,
)
from lamina.ir.dims import Dim, is_static
from lamina.ops.elementwise import Activation, Binary, Unary
from lamina.ops.kinds import ActivationKind, BinaryKind, UnaryKind

SYMBOLIC_SIZE = 256
"""What a symbolic size is taken to be when costs are compared."""

_GATHER, _SCATTER, _TRANSPOSED = 8.0, 16.0, 2.0
_CHEAP_UNARY = frozenset(
    {
        UnaryKind.ABS, UnaryKind.NEG, UnaryKind.SIGN, UnaryKind.FLOOR, UnaryKind.CEIL,
        UnaryKind.ROUND, UnaryKind.LOGICAL_NOT, UnaryKind.BITWISE_NOT, UnaryKind.ISNAN,
        UnaryKind.SQRT, UnaryKind.RECIPROCAL, UnaryKind.RSQRT,
    }
)  # fmt: skip
_CHEAP_ACTIVATION = frozenset(
    {
        ActivationKind.RELU, ActivationKind.CLIP, ActivationKind.LEAKY_RELU,
        ActivationKind.HARD_SIGMOID, ActivationKind.HARD_SWISH, ActivationKind.SHRINK,
        ActivationKind.THRESHOLDED_RELU, ActivationKind.SOFTSIGN,
    }
)  # fmt: skip
_UNARY_WEIGHT = {
    UnaryKind.EXP: 10,
    UnaryKind.LOG: 16,
    UnaryKind.ERF: 24,
    UnaryKind.TANH: 18,
    UnaryKind.SIN: 30,
    UnaryKind.COS: 30,
}
_ACTIVATION_WEIGHT = {
    ActivationKind.SIGMOID: 12,
    ActivationKind.SILU: 14,
    ActivationKind.TANH: 18,
    ActivationKind.SCALED_TANH: 20,
    ActivationKind.GELU: 28,
    ActivationKind.GELU_TANH: 16,
    ActivationKind.SOFTPLUS: 30,
    ActivationKind.MISH: 48,
}
_BINARY_WEIGHT = {BinaryKind.POW: 60, BinaryKind.MOD: 120, BinaryKind.FMOD: 120, BinaryKind.DIV: 4}
_LIBRARY_CALL, _EXPONENTIAL = 120, 14


@dataclass(frozen=True)
class Schedule:
    """The decisions: ``kept`` and ``reduced`` loops in order, outermost first.

    ``vector`` is the vectorized loop (-1: none, lanes is 1); ``tile`` is the loop that lies
    contiguous in transposed loads (-1: none).  ``chunk`` cuts the last kept loop into pieces that
    threads share, 0 when rows are enough.  ``single`` says that the vector loop is kept and fits in
    one vector, so that it needs no loop.
    """

    lanes: int
    vector: int
    kept: tuple[int, ...]
    reduced: tuple[int, ...]
    unroll: int
    tile: int = -1
    chunk: int = 0
    single: bool = False


def static_size(d: Dim) -> int:
    """Return a size, or a guess for a symbolic one."""
    return int(d) if is_static(d) else SYMBOLIC_SIZE  # type: ignore[arg-type]


def weight(nest: LoopNest, i: int) -> int:
    """Return the rough cost of one instruction, in simple operations."""
    x = nest.program[i]
    if not isinstance(x, Apply):
        return 1 if isinstance(x, Load | Fold | Scan) else 0
    op = x.op
    if isinstance(op, Unary):
        return 1 if op.kind in _CHEAP_UNARY else _UNARY_WEIGHT.get(op.kind, _LIBRARY_CALL)
    if isinstance(op, Activation):
        cheap = op.kind in _CHEAP_ACTIVATION
        return 2 if cheap else _ACTIVATION_WEIGHT.get(op.kind, _EXPONENTIAL)
    if isinstance(op, Binary) and op.kind in _BINARY_WEIGHT:
        simple = isinstance(nest.program[x.args[1]], Constant) and op.kind is BinaryKind.POW
        return 3 if simple else _BINARY_WEIGHT[op.kind]
    return 1


def total_weight(nest: LoopNest) -> int:
    """Return the cost of the whole program for one element."""
    return sum(weight(nest, i) for i in range(len(nest.program)))


def schedule(nest: LoopNest, isa: Isa) -> Schedule:
    """Choose a schedule."""
    has_scan = any(isinstance(x, Scan) for x in nest.program)
    candidates = [i for i, d in enumerate(nest.dims) if not (has_scan and d.reduced)]
    forced = _forced_vector(nest)
    if forced is not None:
        candidates = [forced]
    best, vector, lanes = float("inf"), -1, 1
    for v in candidates:
        width = _lanes(nest, v, isa)
        cost = _vector_cost(nest, v, width)
        if cost < best:
            best, vector, lanes = cost, v, width
    if vector >= 0 and best >= _scalar_cost(nest) and forced is None:
        vector, lanes = -1, 1
    tile = _tile(nest, vector, lanes)
    single = tile < 0 and vector >= 0 and _is_single(nest, vector, lanes)
    kept = _order(nest, [i for i, d in enumerate(nest.dims) if not d.reduced], vector, single, tile)
    reduced = _order(nest, [i for i, d in enumerate(nest.dims) if d.reduced], vector, False, -1)
    unroll = 1 if has_scan or tile >= 0 else _unroll(nest)
    chunk = _chunk(nest, vector, kept, lanes) if tile < 0 and not reduced else 0
    return Schedule(lanes, vector, tuple(kept), tuple(reduced), unroll, tile, chunk, single)


def _is_single(nest: LoopNest, vector: int, lanes: int) -> bool:
    loop = nest.dims[vector]
    return not loop.reduced and is_static(loop.size) and static_size(loop.size) <= lanes


def _forced_vector(nest: LoopNest) -> int | None:
    """Return the loop whose masked lanes are the padding of what is stored, None without one."""
    return next((s.access.padded for s in nest.stores if s.access.padded is not None), None)


def _lanes(nest: LoopNest, v: int, isa: Isa) -> int:
    """Return how many lanes the widest value that varies along ``v`` leaves in a register."""
    bits = 8
    for i, x in enumerate(nest.program):
        if v in nest.depends[i] and not isinstance(x, Constant):
            bits = max(bits, register_type(x.dtype).bits)
        if isinstance(x, Fold) and nest.dims[v].reduced:
            bits = max(bits, register_type(x.dtype).bits)
        if isinstance(x, Load) and x.access.strides[v] not in (0, 1):
            bits = max(bits, 32)
    for s in nest.stores:
        if s.access.strides[v] not in (0, 1):
            bits = max(bits, 32)
    return isa.vector_bytes * 8 // bits


def _vector_cost(nest: LoopNest, v: int, lanes: int) -> float:
    cost = total_weight(nest) / lanes
    for i, x in enumerate(nest.program):
        if isinstance(x, Load):
            varying = any(v in nest.depends[j] for j, _ in x.access.dynamic)
            stride = x.access.strides[v]
            if varying or stride not in (0, 1):
                if not varying and (stride == 2 or _transposable(nest, i, v)):
                    cost += _TRANSPOSED
                else:
                    cost += _GATHER
            elif v in nest.depends[i]:
                cost += x.dtype.itemsize / 4
    for s in nest.stores:
        stride = s.access.strides[v]
        varying = any(v in nest.depends[j] for j, _ in s.access.dynamic)
        if varying or stride not in (0, 1):
            cost += _SCATTER
        elif stride == 1:
            cost += s.access.dtype.itemsize / 4
    size = static_size(nest.dims[v].size)
    used = size / (-(-max(size, 1) // lanes) * lanes) if size else 1.0
    kept_bonus = 0.9 if nest.dims[v].reduced and size >= 4 * lanes else 1.0
    return cost / max(used, 0.05) * kept_bonus


def _scalar_cost(nest: LoopNest) -> float:
    return float(total_weight(nest) + 2 * len(nest.stores)) + 4.0


def _transposable(nest: LoopNest, i: int, v: int) -> bool:
    """Whether a load may be transposed in registers: contiguous along another kept loop."""
    x = nest.program[i]
    if not isinstance(x, Load) or x.access.predicate is not None or nest.has_folds:
        return False
    if x.access.operand < 0 or x.access.dynamic:
        return False
    return any(s == 1 and d != v for d, s in enumerate(x.access.strides))


def _tile(nest: LoopNest, vector: int, lanes: int) -> int:
    """Return the loop along which transposed loads are contiguous, -1 when there are none."""
    if vector < 0 or lanes < 4 or nest.has_folds:
        return -1
    votes: dict[int, int] = {}
    for i, x in enumerate(nest.program):
        if not isinstance(x, Load) or x.access.strides[vector] in (0, 1, 2):
            continue
        if _transposable(nest, i, vector):
            for d, s in enumerate(x.access.strides):
                if s == 1 and d != vector and static_size(nest.dims[d].size) >= 2:
                    votes[d] = votes.get(d, 0) + 1
    if not votes:
        return -1
    tile = max(votes, key=lambda d: votes[d])
    # The length of a guarded loop must be known before a tile starts.
    for i, loop in enumerate(nest.dims):
        if loop.guard is not None and (i not in (vector, tile) or loop.guard[0] in (vector, tile)):
            return -1
    return tile


def _order(nest: LoopNest, loops: list[int], vector: int, single: bool, tile: int) -> list[int]:
    """Order loops by the distance of their steps in memory, largest outermost.

    The vector loop comes last unless it is a single vector, the tile loop just before it.
    """

    def distance(d: int) -> tuple[bool, Any]:
        # A guarded loop's outer loop must be outside it.
        steps = [abs(static_stride(s.access.strides[d])) for s in nest.stores]
        loads = [
            abs(static_stride(x.access.strides[d])) for x in nest.program if isinstance(x, Load)
        ]
        inner = nest.dims[d].guard is not None
        return (inner, (-max(steps, default=0), -sum(loads)))

    ordered = sorted((d for d in loops if d not in (vector, tile)), key=distance)
    if tile in loops:
        ordered.append(tile)
    if vector in loops and not single:
        ordered.append(vector)
    return ordered


def static_stride(s: Dim) -> int:
    """Return a stride, or a guess for a symbolic one."""
    return int(s) if is_static(s) else SYMBOLIC_SIZE  # type: ignore[arg-type]


def _unroll(nest: LoopNest) -> int:
    heavy = total_weight(nest)
    if heavy > 60:
        return 1
    return 2 if heavy > 14 else 4


def _chunk(nest: LoopNest, vector: int, kept: list[int], lanes: int) -> int:
    """Return the piece of the last kept loop that one thread takes when there are few rows."""
    if len(kept) < 2 or nest.dims[kept[-1]].guard is not None:
        return 0
    rows = 1
    known = True
    for d in kept[:-1]:
        rows *= static_size(nest.dims[d].size)
        known = known and is_static(nest.dims[d].size)
    piece = 128 * lanes if kept[-1] == vector else 128
    size = nest.dims[kept[-1]].size
    long = not is_static(size) or static_size(size) >= 2 * piece
    return piece if long and (rows < 32 or not known) else 0
