"""Recurrent layers of TensorRT 7 and 8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lamina import ops
from lamina.ir.graph import Array, Value
from lamina.ir.types import DType
from lamina.ops.kinds import ActivationKind, Direction, Epilogue, RecurrentKind
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import RNNDirection, RNNGateType, RNNInputMode, RNNOperation
from lamina.tensorrt.foundation.weights import Weights
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.setting import Setting
from lamina.tensorrt.network.tensor import ITensor

_GATES = {
    "LSTM": ("INPUT", "OUTPUT", "FORGET", "CELL"),
    "GRU": ("UPDATE", "RESET", "HIDDEN"),
    "RELU": ("INPUT",),
    "TANH": ("INPUT",),
}
"""Gates in the order of the Recurrent operator's weights."""

_SIGMOID, _TANH = Epilogue(ActivationKind.SIGMOID), Epilogue(ActivationKind.TANH)
_ACTIVATIONS = {
    "LSTM": (_SIGMOID, _TANH, _TANH),
    "GRU": (_SIGMOID, _TANH),
    "RELU": (Epilogue(ActivationKind.RELU),),
    "TANH": (_TANH,),
}
_KINDS = {"LSTM": RecurrentKind.LSTM, "GRU": RecurrentKind.GRU}


class IRNNv2Layer(ILayer):
    """Stacked recurrent layers over [batch, time, features].

    Results are the outputs [batch, time, hidden (twice when bidirectional)], the last hidden state
    and, for LSTM, the last cell state, [batch, layers (times two), hidden].  Weights are set gate
    by gate; a backward layer has the number ``layer + 1`` after its forward one.
    """

    _kind = "RNN_V2"
    op = Setting(RNNOperation, "RELU", "The cell.")
    input_mode = Setting(RNNInputMode, "LINEAR", "Whether the first layer multiplies its input.")
    direction = Setting(RNNDirection, "UNIDIRECTION", "Order in which time is read.")
    _size = (1, 1, 1)
    """Layers, hidden size, longest sequence."""

    def __init__(self, state: Any, inputs: Sequence[ITensor | None]) -> None:
        super().__init__(state, inputs)
        self._gates: dict[tuple[int, str, bool, bool], Weights] = {}

    @property
    def num_layers(self) -> int:
        """Number of stacked layers."""
        return self._size[0]

    @property
    def hidden_size(self) -> int:
        """Size of the hidden state."""
        return self._size[1]

    @property
    def max_seq_length(self) -> int:
        """Length of the longest sequence."""
        return self._size[2]

    @property
    def data_length(self) -> int:
        """Number of features."""
        tensor = self._inputs[0]
        assert tensor is not None
        return self._state.shape_of(tensor)[-1]

    def _operand(self, index: int) -> ITensor | None:
        return self._inputs[index] if index < len(self._inputs) else None

    @property
    def hidden_state(self) -> ITensor | None:
        """First hidden state, zeros when not given."""
        return self._operand(1)

    @hidden_state.setter
    @checked
    def hidden_state(self, value: ITensor) -> None:
        self.set_input(1, value)

    @property
    def cell_state(self) -> ITensor | None:
        """First cell state, zeros when not given."""
        return self._operand(2)

    @cell_state.setter
    @checked
    def cell_state(self, value: ITensor) -> None:
        self.set_input(2, value)

    @property
    def seq_lengths(self) -> ITensor | None:
        """Length of each sequence; all are of full length when not given."""
        return self._operand(3)

    @seq_lengths.setter
    @checked
    def seq_lengths(self, value: ITensor) -> None:
        self.set_input(3, value)

    @checked
    def set_weights_for_gate(
        self, layer_index: int, gate: RNNGateType, is_w: bool, weights: Weights
    ) -> None:
        """Set a gate's weights [hidden, features] (input) or [hidden, hidden] (recurrent)."""
        self._gates[layer_index, gate.name, is_w, False] = weights
        self._touch()

    @checked
    def get_weights_for_gate(self, layer_index: int, gate: RNNGateType, is_w: bool) -> Any:
        """Return a gate's weights."""
        return self._gates[layer_index, gate.name, is_w, False].numpy()

    @checked
    def set_bias_for_gate(
        self, layer_index: int, gate: RNNGateType, is_w: bool, bias: Weights
    ) -> None:
        """Set a gate's bias [hidden] of the input or of the recurrence."""
        self._gates[layer_index, gate.name, is_w, True] = bias
        self._touch()

    @checked
    def get_bias_for_gate(self, layer_index: int, gate: RNNGateType, is_w: bool) -> Any:
        """Return a gate's bias."""
        return self._gates[layer_index, gate.name, is_w, True].numpy()

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        x, hidden, cell, lengths = (*inputs, None, None, None)[:4]
        assert x is not None
        kind, size = self.op.name, self.hidden_size
        passes = 2 if self.direction.name == "BIDIRECTION" else 1
        features = x.tensor.shape[-1]
        if not isinstance(features, int) or x.tensor.rank != 3:
            raise self._fail(f"a recurrent layer takes [batch, time, features], got {x.tensor}")
        y = e.transpose(x, (1, 0, 2))
        batch = x.tensor.shape[0]
        finals: list[list[Value]] = [[], []]
        op = ops.Recurrent(
            kind=_KINDS.get(kind, RecurrentKind.RNN),
            hidden_size=size,
            direction=Direction.BIDIRECTIONAL if passes == 2 else Direction.FORWARD,
            activations=_ACTIVATIONS[kind] * passes,
            linear_before_reset=True,  # the recurrent bias of the hidden gate is inside the reset
        )
        if lengths is None:
            lengths = e.expand(e.shape_of(y, 0, 1), (batch,))
        for layer in range(self.num_layers):
            width = features if layer == 0 else size * passes
            numbers = range(layer * passes, (layer + 1) * passes)
            w, r, b = self._weights(e, list(numbers), width)
            states = [self._start(e, s, layer, passes, batch) for s in (hidden, cell)]
            made = e.emit_all(
                op, y, w, r, b, *states, e.cast(e.reshape(lengths, (batch,)), DType.I32)
            )
            rows = e.transpose(made[0], (0, 2, 1, 3))
            y = e.reshape(rows, (*rows.tensor.shape[:2], passes * size))
            for kept, final in zip(finals, made[1:], strict=False):
                kept.append(final)
        results = [e.transpose(y, (1, 0, 2)), _stacked(e, finals[0])]
        if kind == "LSTM":
            results.append(_stacked(e, finals[1]))
        return results

    def _weights(
        self, e: LayerEmitter, numbers: list[int], width: int
    ) -> tuple[Value, Value, Value]:
        """Return input weights, recurrent weights and biases of the passes of a layer."""
        size, gates = self.hidden_size, _GATES[self.op.name]
        skip = self.input_mode.name == "SKIP" and numbers[0] < 2 and numbers[0] == 0

        def joined(is_w: bool, is_bias: bool, shape: tuple[int, ...]) -> Array:
            rows = [
                np.concatenate([self._gate(n, g, is_w, is_bias, shape, skip) for g in gates])
                for n in numbers
            ]
            return np.stack(rows)

        w = joined(True, False, (size, width))
        r = joined(False, False, (size, size))
        b = np.concatenate([joined(True, True, (size,)), joined(False, True, (size,))], axis=1)
        return e.constant(w), e.constant(r), e.constant(b)

    def _gate(
        self, number: int, gate: str, is_w: bool, is_bias: bool, shape: tuple[int, ...], skip: bool
    ) -> Array:
        given = self._gates.get((number, gate, is_w, is_bias))
        if given is None and is_bias:
            return np.zeros(shape, np.float32)
        if given is None and skip and is_w:
            return np.eye(*shape, dtype=np.float32)
        if given is None:
            what = "input" if is_w else "recurrent"
            raise self._fail(f"layer {number} has no {what} weights for the gate {gate}")
        if given.size != int(np.prod(shape)):
            raise self._fail(f"gate {gate} has {given.size} weights, expected {shape}")
        return np.asarray(given.numpy()).reshape(shape)

    def _start(
        self, e: LayerEmitter, state: Value | None, layer: int, passes: int, batch: Any
    ) -> Value:
        """Return the first state of a layer as [passes, batch, hidden]."""
        if state is None:
            return e.fill(0.0, DType.F32, (passes, batch, self.hidden_size))
        rows = e.slice(state, 1, layer * passes, passes)
        return e.transpose(rows, (1, 0, 2))


def _stacked(e: LayerEmitter, finals: list[Value]) -> Value:
    joined = finals[0] if len(finals) == 1 else e.emit(ops.Concat(axis=0), *finals)
    return e.transpose(joined, (1, 0, 2))


__all__ = ["IRNNv2Layer"]
