"""What recurrent kernels are told, and where their weights and buffers lie.

Columns are ordered [group][block of the group][gate][lane]: a group is what one register tile
computes, a block one register of hidden units.  Products of bf16 factors take two depths at a
time: each lane of their weights is a pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from lamina.backends.cpu.kernels import gemm
from lamina.backends.cpu.kernels.convolution import Epilogue
from lamina.backends.cpu.kernels.gemm import GemmConfig, GemmProblem
from lamina.codegen.llvm.builder import F32
from lamina.codegen.llvm.target import Isa
from lamina.ir.dims import Dim, Expr, ceildiv
from lamina.ir.traced import dense

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
_COUNTER_BYTES = 128


@dataclass(frozen=True)
class RecurrentProblem:
    """A layer in the terms of :class:`lamina.ops.Recurrent`; time and batch may be symbolic.

    ``activations`` has the functions of each direction in turn.  A GRU applies its reset gate after
    the product (``linear_before_reset``), or before it with ``reset_first``: each step is then two
    products, with a barrier between.

    ``factors`` is the type that inputs, states and weights are rounded to where they are
    multiplied: f32 or bf16; sums, gates and states stay f32.
    """

    kind: str
    time: Dim
    batch: Dim
    inputs: int
    hidden: int
    reverse: tuple[bool, ...]
    activations: tuple[Epilogue, ...]
    clip: float | None = None
    input_forget: bool = False
    lengths: bool = False
    reset_first: bool = False
    peephole: bool = False
    factors: str = "f32"

    @property
    def paired(self) -> bool:
        """Whether products multiply pairs of bf16."""
        return self.factors == "bf16"

    @property
    def product_type(self) -> str:
        """Return what the matrix product calls its operands."""
        return "bf16x2" if self.paired else "f32"

    def depths(self, size: int) -> int:
        """Return the number of depths, or of pairs of them, in a product over ``size`` values."""
        return -(-size // 2) if self.paired else size

    @property
    def rounded_stride(self) -> int:
        """Return the bytes from one row of rounded inputs to the next, an odd number of lines."""
        return (-(-self.inputs // 32) | 1) * 64

    @property
    def operands(self) -> tuple[str, ...]:
        """Return the names of the kernels' operands, in the order of their ``args``."""
        lengths = ("lengths",) if self.lengths else ()
        constants = ("weights", "recurrent", "bias", "inner_bias")
        peephole = ("peephole",) if self.peephole else ()
        states = ("h0", "c0", *lengths)
        return ("x", *constants, *peephole, *states, "y", "h", "c", "workspace")


@dataclass(frozen=True)
class RecurrentConfig:
    """Rows of the batch and blocks of hidden units in a register tile, and the first product."""

    rows: int
    blocks: int
    product: GemmConfig


class Layout:
    """Sizes of the padded hidden axis and of a row of gates."""

    def __init__(self, p: RecurrentProblem, blocks: int, isa: Isa) -> None:
        self.lanes = isa.lanes(F32)
        self.gates, self.blocks = GATES[p.kind], blocks
        self.width = blocks * self.lanes
        self.groups = -(-p.hidden // self.width)
        self.hidden = self.groups * self.width
        # Rows of states an odd number of cache lines apart share no set of the first-level cache.
        self.pitch = (self.hidden // self.lanes | 1) * self.lanes
        self.columns = self.hidden * self.gates

    def ordered(self, rows: NDArray[np.float32], gates: int = 0) -> NDArray[np.float32]:
        """Return [gates * H, ...] as [groups, ..., blocks, gates, lanes], padded with zeros.

        ``gates`` is the number of them in ``rows`` when these are not all.
        """
        gates, rest = gates or self.gates, rows.shape[1:]
        split = rows.reshape(gates, -1, *rest)
        missing = self.hidden - split.shape[1]
        padded = np.pad(split, ((0, 0), (0, missing), *[(0, 0)] * len(rest)))
        parts = padded.reshape(gates, self.groups, self.blocks, self.lanes, *rest)
        others = range(4, parts.ndim)
        return dense(parts.transpose(1, *others, 2, 0, 3))


def first_product(p: RecurrentProblem, layout: Layout, likely: int) -> GemmProblem:
    """Return the product of all inputs with the input weights of all directions."""
    rows = p.time * p.batch
    columns = len(p.reverse) * layout.columns
    static = rows if isinstance(rows, int) else None
    return GemmProblem(
        static,
        p.depths(p.inputs),
        columns,
        p.rounded_stride if p.paired else p.inputs * 4,
        columns * 4,
        weights=p.product_type,
        dtype=p.product_type,
        bias=True,
        expected_rows=likely,
    )


def pack(
    w: NDArray[np.float32],
    r: NDArray[np.float32],
    b: NDArray[np.float32],
    problem: RecurrentProblem,
    config: RecurrentConfig,
    isa: Isa,
) -> dict[str, NDArray[np.generic]]:
    """Return the constants of the kernels from those of the operator."""
    layout = Layout(problem, config.blocks, isa)
    directions = range(len(problem.reverse))
    rows = layout.gates * problem.hidden
    # A GRU with its reset gate behind the product adds the candidate's inner bias before the gate.
    split = 2 * problem.hidden if problem.kind == "gru" and not problem.reset_first else rows
    kept = np.arange(rows) >= split
    inner = np.where(kept, b[:, rows:], np.float32(0))
    outer = b[:, :rows] + np.where(kept, np.float32(0), b[:, rows:])
    weights = [layout.ordered(w[d]).swapaxes(0, 1).reshape(problem.inputs, -1) for d in directions]
    product = first_product(problem, layout, 1)
    columns = _stored(np.concatenate(weights, 1), problem)
    return {
        "weights": gemm.pack_weights(columns, product, config.product, isa),
        "recurrent": np.stack([_recurrent_weights(r[d], problem, layout) for d in directions]),
        "bias": np.concatenate([layout.ordered(outer[d]).reshape(-1) for d in directions]),
        "inner_bias": np.stack([layout.ordered(inner[d]) for d in directions]),
    }


def _recurrent_weights(
    r: NDArray[np.float32], problem: RecurrentProblem, layout: Layout
) -> NDArray[np.generic]:
    """Return one direction's weights: all gates of a group, or the candidate's after all others."""
    if not problem.reset_first:
        return _stored(layout.ordered(r).reshape(layout.groups, problem.hidden, -1), problem)
    gates, candidate = r[: 2 * problem.hidden], r[2 * problem.hidden :]
    parts = [layout.ordered(gates, 2), layout.ordered(candidate, 1)]
    stored = [_stored(x.reshape(layout.groups, problem.hidden, -1), problem) for x in parts]
    return np.concatenate([x.reshape(-1) for x in stored])


def _stored(
    rows: NDArray[np.float32], problem: RecurrentProblem
) -> NDArray[np.float32] | NDArray[np.uint32]:
    """Return weights [..., depth, columns] as the products read them, perhaps as pairs."""
    if not problem.paired:
        return rows
    depth, columns = rows.shape[-2:]
    others = [(0, 0)] * (rows.ndim - 2)
    even = np.pad(rows, (*others, (0, problem.depths(depth) * 2 - depth), (0, 0)))
    pairs = even.astype(ml_dtypes.bfloat16).reshape(*rows.shape[:-2], -1, 2, columns)
    return dense(pairs.swapaxes(-1, -2)).view(np.uint32)[..., 0]


def pack_peephole(
    holes: NDArray[np.float32], problem: RecurrentProblem, config: RecurrentConfig, isa: Isa
) -> NDArray[np.float32]:
    """Return the weights [dirs, 3 * H] of the cell in the gates as [dirs, 3, padded hidden]."""
    layout = Layout(problem, config.blocks, isa)
    missing = layout.hidden - problem.hidden
    return np.pad(holes.reshape(-1, 3, problem.hidden), ((0, 0), (0, 0), (0, missing)))


class Plan:
    """Where the buffers of a step lie in its workspace."""

    def __init__(self, p: RecurrentProblem, c: RecurrentConfig, isa: Isa, threads: int) -> None:
        self.layout = Layout(p, c.blocks, isa)
        directions = len(p.reverse)
        self.rows = ceildiv(p.batch, c.rows) * c.rows
        self.state_bytes = self.rows * directions * self.layout.pitch * 4
        self.patch = _COUNTER_BYTES
        product = first_product(p, self.layout, 1)
        patch = gemm.workspace_bytes(product, c.product, isa, threads)
        self.h = self.patch + -(-patch // 64) * 64
        self.c = self.h + 2 * self.state_bytes
        # Before its second product, a GRU keeps its update gate and what the reset gate leaves.
        self.update = self.c + self.state_bytes
        self.reset = self.update + self.state_bytes
        end: Dim = self.reset + self.state_bytes if p.reset_first else self.update
        # What products multiply: the states and the inputs themselves, or these rounded.
        self.factor_bytes = self.rows * directions * self.layout.pitch * (2 if p.paired else 4)
        self.factors: Dim = end if p.paired else self.h
        self.rounded = end + 2 * self.factor_bytes if p.paired else end
        inputs = p.time * p.batch * p.rounded_stride
        self.gates = self.rounded + inputs if p.paired else end
        self.row_bytes = directions * self.layout.columns * 4
        self.nbytes: Dim = self.gates + p.time * p.batch * self.row_bytes

    def dims(self, p: RecurrentProblem) -> tuple[Dim, ...]:
        """Return every size that code needs."""
        states = (self.state_bytes, self.c, self.update, self.reset)
        others = (self.factor_bytes, self.factors, self.rounded, self.gates)
        return (p.time * p.batch, p.time, p.batch, self.rows, *states, *others)


def workspace_bytes(
    problem: RecurrentProblem, config: RecurrentConfig, isa: Isa, threads: int
) -> Dim:
    """Return the workspace of all threads together."""
    return Plan(problem, config, isa, threads).nbytes


def parameters(
    problem: RecurrentProblem, config: RecurrentConfig, isa: Isa, threads: int
) -> tuple[Expr, ...]:
    """Return the sizes that the kernels take at run time; the first one is the rows of x."""
    dims = Plan(problem, config, isa, threads).dims(problem)
    return tuple(dict.fromkeys(d for d in dims if isinstance(d, Expr)))
