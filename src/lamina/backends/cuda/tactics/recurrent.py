"""Simple recurrent layers, LSTM and GRU."""

from __future__ import annotations

from typing import Final

from lamina.backends.cuda.request import CudaDraft, Launch
from lamina.backends.cuda.tactics.call import Call, OnlyDraft
from lamina.backends.cuda.target import CudaTarget
from lamina.codegen.triton.cost import LAUNCH_MICROSECONDS
from lamina.codegen.triton.schedule import Sizes
from lamina.ir.dims import Dim, ceildiv
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ops import Recurrent
from lamina.ops.kinds import Direction, Epilogue, RecurrentKind
from lamina.tactics.candidate import Candidate, Read, Scratch, Write
from lamina.tactics.form import Form

_FLOATS: Final = (DType.F32, DType.F16, DType.BF16)
_TILES: Final = ((16, 32, 64, 4), (16, 64, 32, 8))
_BYTES_PER_MICROSECOND: Final = 1e5
"""What one processor reads of the weights, which it does at every time."""


class Walk:
    """A walk through time for each block of the batch; see ``kernels/recurrent.py``."""

    name = "walk"

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer some tiles for row-major operands."""
        op = node.op
        if not isinstance(op, Recurrent):
            return None
        x = node.inputs[0].tensor
        if x.dtype not in _FLOATS:
            return Reject(f"the matrix units take f16, bf16 and f32, not {x.dtype}")
        if x.dtype is DType.BF16 and target.arch < 80:
            return Reject(f"sm_{target.arch} has no bf16")
        sizes = Sizes(target.env)
        weights = op.kind.gates * op.hidden_size**2 * x.dtype.itemsize
        time = sizes(x.shape[0]) * weights / _BYTES_PER_MICROSECOND + 2 * LAUNCH_MICROSECONDS
        return [
            Candidate(
                tactic=f"walk {m}x{n}x{k} w{w}",
                reads=(Form.PLAIN,) * len(node.inputs),
                writes=(Form.PLAIN,) * 3,
                estimate_microseconds=time * (1 + 0.1 * number),
                draft=OnlyDraft(_Layer(node, op, target, (m, n, k, w)).draft()),  # type: ignore[arg-type]
                takes_strides=False,
            )
            for number, (m, n, k, w) in enumerate(_TILES)
        ]


class _Layer:
    """The launches of one layer for one tile."""

    def __init__(
        self, node: Node, op: Recurrent, target: CudaTarget, tile: tuple[int, int, int, int]
    ) -> None:
        self.node, self.op, self.target, self.tile = node, op, target, tile
        x = node.inputs[0].tensor
        self.dtype = x.dtype
        self.time, self.batch, self.inputs = x.shape
        self.gated = op.kind.gates * op.hidden_size
        self.columns = op.direction.passes * self.gated
        self.states: Dim = self.batch * (op.direction.passes * op.hidden_size)

    def draft(self) -> CudaDraft:
        """Return the products with the inputs, then the walks of directions that are alike."""
        functions = self._functions()
        launches = [self._project()]
        if len(functions) == 2 and functions[0] == functions[1]:
            launches.append(self._walk(0, 2, functions[0]))
        else:
            launches += [self._walk(i, 1, f) for i, f in enumerate(functions)]
        words = self.states * 4 + self.time * self.batch * self.columns
        return CudaDraft(launches=tuple(launches), workspace_bytes=words * 4)

    def _functions(self) -> list[tuple[Epilogue, ...]]:
        """Return the activations of each direction."""
        given, passes = self.op.activations, self.op.direction.passes
        each = len(given) // passes
        return [given[i * each : (i + 1) * each] for i in range(passes)]

    def _project(self) -> Launch:
        m, n, k, warps = self.tile
        rows = self.time * self.batch
        # The recurrent bias of a GRU's last gate belongs inside its product with the state.
        gru = self.op.kind is RecurrentKind.GRU
        second = self.gated - self.op.hidden_size if gru else self.gated
        call = Call("recurrent", "project")
        for number, name in ((0, "x"), (1, "w"), (3, "b")):
            call.pointer(name, Read(number), self.dtype)
        call.pointer("gates", Scratch(), DType.F32)
        call.sizes(ROWS=rows, INPUTS=self.inputs, GATED=self.gated, SECOND=second)
        call.sizes(COLUMNS=self.columns, GATES_AT=self.states * 4)
        self._blocks(call, m, n, k)
        grid = (ceildiv(rows, m), ceildiv(self.columns, n))
        return call.launch(grid, warps=warps, stages=2, dependent=self.target.dependent)

    def _walk(self, first: int, count: int, functions: tuple[Epilogue, ...]) -> Launch:
        op, (m, n, k, warps) = self.op, self.tile
        call = Call("recurrent", "walk")
        for number, name in ((2, "r"), (3, "b"), (4, "h0"), (5, "c0")):
            call.pointer(name, Read(number), self.dtype)
        has = len(self.node.inputs)
        call.pointer("lengths", self._optional(6), DType.I32)
        call.pointer("peephole", self._optional(7) if has > 7 else None, self.dtype)
        for number, name in enumerate(("y", "last_h", "last_c")):
            call.pointer(name, Write(number), self.dtype)
        call.pointer("work", Scratch(), DType.F32)
        call.sizes(TIME=self.time, BATCH=self.batch, H=op.hidden_size, COLUMNS=self.columns)
        call.sizes(GATES_AT=self.states * 4, FIRST=first, DIRECTIONS=op.direction.passes)
        call.constants(
            CELL=op.kind.value,
            LINEAR=op.linear_before_reset,
            INPUT_FORGET=op.input_forget,
            BACKWARD=op.direction is Direction.REVERSE,
            CLIP=op.clip,
        )
        for number, letter in enumerate("FGH"):
            f = functions[number] if number < len(functions) else functions[0]
            names = {f"KIND_{letter}": f.kind.value, f"ALPHA_{letter}": f.alpha}
            call.constants(**names, **{f"BETA_{letter}": f.beta})
        self._blocks(call, m, n, k)
        grid = (ceildiv(self.batch, m), count)
        return call.launch(grid, warps=warps, stages=2, dependent=self.target.dependent)

    def _optional(self, number: int) -> Read | None:
        return Read(number) if len(self.node.inputs) > number else None

    def _blocks(self, call: Call, m: int, n: int, k: int) -> None:
        exact = self.dtype is DType.F32 and not self.target.tf32
        call.constants(BLOCK_M=m, BLOCK_N=n, BLOCK_K=k, DEPENDENT=self.target.dependent)
        call.constants(PRECISION="ieee" if exact else "tf32")
