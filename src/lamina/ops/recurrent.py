"""Recurrent networks over time: simple, LSTM and GRU cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import DType, TensorType
from lamina.ops import check
from lamina.ops.accumulate import narrow, widen
from lamina.ops.functions import activate
from lamina.ops.kinds import Direction, Epilogue, RecurrentKind

_ACTIVATIONS = {RecurrentKind.RNN: 1, RecurrentKind.LSTM: 3, RecurrentKind.GRU: 2}


@operator
class Recurrent(Op):
    """A recurrent layer; gates and their order are those of ONNX RNN, LSTM (iofc), GRU (zrh).

    x is [T, B, I], w is [dirs, gates * H, I], r is [dirs, gates * H, H], b is [dirs, 2 * gates * H]
    (input biases, then recurrent ones), h0 and c0 are [dirs, B, H] (c0 is zeros for RNN and GRU),
    sequence_lengths is i32 [B] and peephole is [dirs, 3 * H] (i, o, f).  ``activations`` holds one
    function per kind of gate (f, g, h) for each direction in turn.  Results are y [T, dirs, B, H],
    zero after the end of a sequence, and the last h and c [dirs, B, H].

    ``factors`` is the type that x, the weights and the states may be rounded to where they are
    multiplied, or wider: sums, gates and states keep their type.
    """

    kind: RecurrentKind
    hidden_size: int
    direction: Direction
    activations: tuple[Epilogue, ...]
    clip: float | None = None
    linear_before_reset: bool = False
    input_forget: bool = False
    factors: DType = DType.F32

    def infer(
        self,
        x: TensorType,
        w: TensorType,
        r: TensorType,
        b: TensorType,
        h0: TensorType,
        c0: TensorType,
        sequence_lengths: TensorType | None = None,
        peephole: TensorType | None = None,
    ) -> tuple[TensorType, TensorType, TensorType]:
        """Return the types of y, h and c."""
        check.floating("x", x)
        check.rank_is("x", x, 3)
        time, batch, inputs = x.shape
        dirs, hidden = self.direction.passes, self.hidden_size
        rows = self.kind.gates * hidden
        operands = (
            ("w", w, (dirs, rows, inputs)),
            ("r", r, (dirs, rows, hidden)),
            ("b", b, (dirs, 2 * rows)),
            ("h0", h0, (dirs, batch, hidden)),
            ("c0", c0, (dirs, batch, hidden)),
            ("peephole", peephole, (dirs, 3 * hidden)),
        )
        for name, operand, shape in operands:
            if operand is not None:
                check.same_dtype(name, operand, "x", x)
                check.shape_is(name, operand, shape)
        if sequence_lengths is not None:
            check.has_dtype("sequence_lengths", sequence_lengths, DType.I32)
            check.shape_is("sequence_lengths", sequence_lengths, (batch,))
        if len(self.activations) != dirs * _ACTIVATIONS[self.kind]:
            raise TypeMismatch(
                f"{self.kind} in {dirs} direction(s) needs {dirs * _ACTIVATIONS[self.kind]} "
                f"activations, got {len(self.activations)}"
            )
        state = x.with_shape((dirs, batch, hidden))
        return x.with_shape((time, dirs, batch, hidden)), state, state

    def reference(
        self,
        x: Array,
        w: Array,
        r: Array,
        b: Array,
        h0: Array,
        c0: Array,
        sequence_lengths: Array | None = None,
        peephole: Array | None = None,
    ) -> tuple[Array, Array, Array]:
        """Step through time, one direction after the other."""
        time, batch = x.shape[:2]
        if sequence_lengths is None:
            sequence_lengths = np.full(batch, time, np.int32)
        runs = []
        for d in range(self.direction.passes):
            hole = np.zeros(3 * self.hidden_size, np.float32)
            cell = _Cell(
                self,
                self.activations[d * _ACTIVATIONS[self.kind] :],
                self.factor(widen(w[d])),
                self.factor(widen(r[d])),
                widen(b[d]),
                hole if peephole is None else widen(peephole[d]),
            )
            backward = self.direction is Direction.REVERSE or d == 1
            states = (widen(h0[d]), widen(c0[d]))
            runs.append(_run(cell, self.factor(widen(x)), *states, sequence_lengths, backward))
        ys, hs, cs = zip(*runs, strict=True)
        y, h, c = np.stack(ys, axis=1), np.stack(hs), np.stack(cs)
        return narrow(y, x.dtype), narrow(h, x.dtype), narrow(c, x.dtype)

    def factor(self, x: Array) -> Array:
        """Round what a product multiplies."""
        return x if self.factors is DType.F32 else widen(narrow(x, self.factors.numpy))


@dataclass(frozen=True)
class _Cell:
    """One direction of the layer: its weights and how it makes one step."""

    op: Recurrent
    activations: tuple[Epilogue, ...]
    w: Array
    r: Array
    b: Array
    peephole: Array

    def step(self, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        """Return the next h and c from x [B, I], which is rounded already."""
        if self.op.kind is RecurrentKind.LSTM:
            return self._lstm(x, h, c)
        if self.op.kind is RecurrentKind.GRU:
            return self._gru(x, h), c
        w_bias, r_bias = np.split(self.b, 2)
        return self._activate(0, x @ self.w.T + self.op.factor(h) @ self.r.T + w_bias + r_bias), c

    def _activate(self, index: int, x: Array) -> Array:
        clip = self.op.clip
        return activate(self.activations[index], x if clip is None else np.clip(x, -clip, clip))

    def _lstm(self, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        w_bias, r_bias = np.split(self.b, 2)
        i, o, f, g = np.split(
            x @ self.w.T + self.op.factor(h) @ self.r.T + w_bias + r_bias, 4, axis=1
        )
        p_i, p_o, p_f = np.split(self.peephole, 3)
        i = self._activate(0, i + p_i * c)
        f = 1 - i if self.op.input_forget else self._activate(0, f + p_f * c)
        c = f * c + i * self._activate(1, g)
        o = self._activate(0, o + p_o * c)
        # The clip bounds what enters the gates; the cell state reaches h unclipped.
        return o * activate(self.activations[2], c), c

    def _gru(self, x: Array, h: Array) -> Array:
        hidden = self.op.hidden_size
        w_bias, r_bias = np.split(self.b, 2)
        gates, factor = x @ self.w.T + w_bias, self.op.factor
        r_zr, r_h = self.r[: 2 * hidden], self.r[2 * hidden :]
        zr = self._activate(0, gates[:, : 2 * hidden] + factor(h) @ r_zr.T + r_bias[: 2 * hidden])
        z, r = np.split(zr, 2, axis=1)
        if self.op.linear_before_reset:
            recurrent = r * (factor(h) @ r_h.T + r_bias[2 * hidden :])
        else:
            recurrent = factor(r * h) @ r_h.T + r_bias[2 * hidden :]
        candidate = self._activate(1, gates[:, 2 * hidden :] + recurrent)
        return np.asarray((1 - z) * candidate + z * h)


def _run(
    cell: _Cell, x: Array, h: Array, c: Array, lengths: Array, backward: bool
) -> tuple[Array, Array, Array]:
    """Run one direction; a backward run starts at the end of each sequence."""
    time, batch = x.shape[:2]
    y = np.zeros((time, batch, cell.op.hidden_size), x.dtype)
    with np.errstate(all="ignore"):
        for t in range(time):
            alive = t < lengths
            at = np.where(alive, lengths - 1 - t if backward else t, 0)
            rows = np.arange(batch)
            new_h, new_c = cell.step(x[at, rows], h, c)
            h, c = (np.where(alive[:, None], n, o) for n, o in ((new_h, h), (new_c, c)))
            y[at[alive], rows[alive]] = h[alive]
    return y, h, c
