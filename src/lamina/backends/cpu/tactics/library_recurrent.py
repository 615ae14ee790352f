"""Recurrent layers through oneDNN."""

from __future__ import annotations

import numpy as np

from lamina.backends.cpu.onednn.memory import Layout as LibraryLayout
from lamina.backends.cpu.onednn.rnn import Recurrent as LibraryLayer
from lamina.backends.cpu.tactics.library_step import library_draft
from lamina.backends.cpu.target import CpuTarget
from lamina.ir.dims import evaluate
from lamina.ir.graph import Node
from lamina.ir.pattern import Reject
from lamina.ir.types import DType
from lamina.ops import Direction, Recurrent, RecurrentKind
from lamina.ops.kinds import ActivationKind
from lamina.tactics.candidate import (
    Candidate,
    Draft,
    Placement,
    Read,
    Role,
    Write,
    constant,
    sizes_known,
)
from lamina.tactics.form import Form

_BYTES_PER_MICROSECOND = 4e4
_FUNCTIONS = (ActivationKind.SIGMOID, ActivationKind.TANH, ActivationKind.TANH)
_GATES = [0, 2, 3, 1]
"""Where the library's gates (input, forget, cell, output) are among the operator's (i, o, f, c)."""
_PEEPHOLES = [0, 2, 1]
_WEIGHTS, _LENGTHS, _PEEPHOLE = (1, 2, 3), 6, 7


class LibraryRecurrent:
    """oneDNN's LSTM of one direction over whole sequences, with its weights packed.

    For GRUs the library has reference code only, and its plain RNN leaves the third result alone.
    """

    name = "onednn"

    def candidates(self, node: Node, target: CpuTarget) -> list[Candidate] | Reject | None:
        """Offer the one candidate that there is."""
        op = node.op
        if not isinstance(op, Recurrent):
            return None
        if reason := _refusal(node, op, target):
            return Reject(reason)

        def draft(p: Placement) -> Draft:
            return _draft(node, op, target)

        steps = evaluate(node.inputs[0].tensor.shape[0], target.env)
        cost = steps * node.inputs[2].tensor.size * 4 / _BYTES_PER_MICROSECOND  # type: ignore[operator]
        packed = (*_WEIGHTS, _LENGTHS, _PEEPHOLE)
        reads = tuple(None if i in packed else Form.PLAIN for i in range(len(node.inputs)))
        return [Candidate("onednn", reads, (Form.PLAIN,) * 3, float(cost), draft)]


def _refusal(node: Node, op: Recurrent, target: CpuTarget) -> str | None:
    x = node.inputs[0].tensor
    if target.library is None:
        return "oneDNN is not available"
    if not sizes_known(node, target.env):
        return "data decides a size"
    if x.dtype is not DType.F32:
        return f"needs f32, got {x.dtype}"
    if op.kind is not RecurrentKind.LSTM:
        return f"oneDNN has no fast {op.kind} with all results"
    if op.direction is Direction.BIDIRECTIONAL:
        return "results of both directions lie apart"
    if op.clip is not None or op.input_forget:
        return "oneDNN neither clips gates nor couples them"
    if tuple(a.kind for a in op.activations) != _FUNCTIONS:
        return "oneDNN's LSTM has sigmoid and tanh only"
    if any(constant(node.inputs[i]) is None for i in _WEIGHTS if i < len(node.inputs)):
        return "the weights are not constant"
    if 0 in (*x.shape, op.hidden_size):
        return "an operand is empty"
    return _sequence_refusal(node)


def _sequence_refusal(node: Node) -> str | None:
    """Say why sequence lengths or peepholes cannot be handed over."""
    for i in (_LENGTHS, _PEEPHOLE):
        if i < len(node.inputs) and constant(node.inputs[i]) is None:
            return "lengths or peephole weights are not constant"
    if len(node.inputs) > _LENGTHS:
        lengths = constant(node.inputs[_LENGTHS])
        assert lengths is not None
        if any(n != node.inputs[0].tensor.shape[0] for n in lengths.array.tolist()):
            return "oneDNN takes no lengths of sequences"
    return None


def _draft(node: Node, op: Recurrent, target: CpuTarget) -> Draft:
    steps, batch, inputs = node.inputs[0].tensor.shape
    hidden = op.hidden_size
    w, r, b = (constant(node.inputs[i]).array[0] for i in _WEIGHTS)  # type: ignore[union-attr]
    packed = {
        "weights": _gates(w, hidden).transpose(2, 0, 1)[None, None],
        "weights_iter": _gates(r, hidden).transpose(2, 0, 1)[None, None],
        "bias": _gates(b.reshape(2, -1).sum(axis=0), hidden)[None, None],
    }
    if len(node.inputs) > _PEEPHOLE:
        holes = constant(node.inputs[_PEEPHOLE]).array  # type: ignore[union-attr]
        packed["weights_peephole"] = holes.reshape(3, hidden)[_PEEPHOLES][None, None]
    state = LibraryLayout.dense((1, 1, batch, hidden))  # type: ignore[arg-type]
    spec = LibraryLayer(
        "lstm",
        LibraryLayout.dense((steps, batch, inputs)),  # type: ignore[arg-type]
        LibraryLayout.any(packed["weights"].shape),
        LibraryLayout.any(packed["weights_iter"].shape),
        LibraryLayout.dense((steps, batch, hidden)),  # type: ignore[arg-type]
        bias=LibraryLayout.dense(packed["bias"].shape),
        src_iter=state,
        src_iter_c=state,
        dst_iter=state,
        dst_iter_c=state,
        weights_peephole=LibraryLayout.dense(packed["weights_peephole"].shape)
        if "weights_peephole" in packed
        else None,
        direction="reverse" if op.direction is Direction.REVERSE else "forward",
    )
    arguments: dict[str, Role] = {
        "src": Read(0),
        "src_iter": Read(4),
        "src_iter_c": Read(5),
        "dst": Write(0),
        "dst_iter": Write(1),
        "dst_iter_c": Write(2),
    }
    return library_draft(target, spec, arguments, packed)


def _gates(rows: np.ndarray, hidden: int) -> np.ndarray:
    """Return the operator's gates [4 * H, ...] as [4, H, ...] in the library's order."""
    return rows.reshape(4, hidden, *rows.shape[1:])[_GATES]
