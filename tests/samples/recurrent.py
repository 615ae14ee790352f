"""Samples of lamina.ops.recurrent."""

from __future__ import annotations

import numpy as np

from lamina.ops import ActivationKind, Direction, Epilogue, Recurrent, RecurrentKind
from tests.samples.sample import OnnxForm, normal, sample

_SIGMOID, _TANH = Epilogue(ActivationKind.SIGMOID), Epilogue(ActivationKind.TANH)
_DEFAULT = {
    RecurrentKind.RNN: (_TANH,),
    RecurrentKind.LSTM: (_SIGMOID, _TANH, _TANH),
    RecurrentKind.GRU: (_SIGMOID, _TANH),
}
_T, _B, _I, _H = 4, 3, 5, 2


def _recurrent(kind, direction, *, lengths=False, peephole=False, onnx=True, opset=22, **more):
    dirs, gates = direction.passes, kind.gates
    op = Recurrent(
        kind=kind,
        hidden_size=_H,
        direction=direction,
        activations=more.pop("activations", _DEFAULT[kind] * dirs),
        **more,
    )
    lstm = kind is RecurrentKind.LSTM
    inputs = [
        normal(_T, _B, _I),
        normal(dirs, gates * _H, _I, seed=1),
        normal(dirs, gates * _H, _H, seed=2),
        normal(dirs, 2 * gates * _H, seed=3),
        normal(dirs, _B, _H, seed=4),
        normal(dirs, _B, _H, seed=5) if lstm else np.zeros((dirs, _B, _H), np.float32),
    ]
    if lengths or peephole:
        inputs.append(np.int32([4, 2, 3] if lengths else [4, 4, 4]))
    if peephole:
        inputs.append(normal(dirs, 3 * _H, seed=6))
    wiring = [0, 1, 2, 3, 6 if lengths or peephole else None, 4]
    if lstm:
        wiring += [5, 7 if peephole else None]
    attributes = {"hidden_size": _H, "direction": direction.value}
    if op.clip is not None:
        attributes["clip"] = op.clip
    if op.linear_before_reset:
        attributes["linear_before_reset"] = 1
    form = OnnxForm(
        kind.value.upper(), attributes, tuple(wiring), 3 if lstm else 2, opset, runtime=True
    )
    return sample(op, *inputs, onnx=form if onnx else None)


SAMPLES = {
    Recurrent: [
        *(_recurrent(k, d) for k in RecurrentKind for d in Direction),
        *(_recurrent(k, d, lengths=True) for k in RecurrentKind for d in Direction),
        _recurrent(RecurrentKind.GRU, Direction.FORWARD, linear_before_reset=True),
        _recurrent(RecurrentKind.LSTM, Direction.BIDIRECTIONAL, peephole=True),
        _recurrent(RecurrentKind.LSTM, Direction.FORWARD, lengths=True, clip=0.4),
        _recurrent(RecurrentKind.LSTM, Direction.FORWARD, input_forget=True, onnx=False),
        _recurrent(
            RecurrentKind.RNN,
            Direction.FORWARD,
            activations=(Epilogue(ActivationKind.LEAKY_RELU, 0.1),),
            onnx=False,
        ),
    ]
}
