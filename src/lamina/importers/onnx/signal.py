"""Windows and the short-time Fourier transform."""

from __future__ import annotations

import numpy as np
import onnx

from lamina import ops
from lamina.errors import ImportFailed
from lamina.importers.onnx.movement import slice_axis
from lamina.importers.onnx.node import OnnxNode
from lamina.importers.onnx.table import Importer, Table
from lamina.importers.onnx.tensors import dtype_of
from lamina.ir.dims import floordiv
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind, UnaryKind

table = Table()

_COSINES = {
    "HannWindow": (0.5, 0.5, 0.0),
    "HammingWindow": (25 / 46, 21 / 46, 0.0),
    "BlackmanWindow": (0.42, 0.5, 0.08),
}
"""The window is ``a0 - a1 * cos(2 pi n / N) + a2 * cos(4 pi n / N)``."""


def _window(terms: tuple[float, float, float]) -> Importer:
    def importer(n: OnnxNode, size: Value) -> Value:
        length = n.reshape(n.cast(size, DType.I64), ())
        places = n.emit(
            ops.Range(length=n.dim(length)), n.constant(0, DType.I64), n.constant(1, DType.I64)
        )
        period = length
        if not n.flag("periodic", True):
            period = n.binary(BinaryKind.SUB, length, n.like(1, length))
        turn = n.binary(BinaryKind.DIV, n.cast(places, DType.F64), n.cast(period, DType.F64))
        y = n.constant(terms[0], DType.F64)
        for factor, weight in ((1, -terms[1]), (2, terms[2])):
            angle = n.multiply(turn, n.like(2 * np.pi * factor, turn))
            wave = n.emit(ops.Unary(kind=UnaryKind.COS), angle)
            y = n.binary(BinaryKind.ADD, n.multiply(wave, n.like(weight, wave)), y)
        return n.cast(y, dtype_of(n.integer("output_datatype", onnx.TensorProto.FLOAT)))

    return importer


for _name, _terms in _COSINES.items():
    table.op(_name)(_window(_terms))


@table.op("STFT")
def stft(
    n: OnnxNode,
    signal: Value,
    frame_step: Value,
    window: Value | None = None,
    frame_length: Value | None = None,
) -> Value:
    """Import STFT: frames are gathered, weighted, and multiplied by cosines and sines.

    With the matrices C and S of angles ``-2 pi k t / length``, the spectrum of ``a + ib`` is
    ``(aC - bS) + i(aS + bC)``.
    """
    step = int(n.required(frame_step, "frame_step").item())
    length = _frame_length(n, window, frame_length)
    frames = _frames(n, signal, step, length)
    if window is not None:
        frames = n.multiply(frames, n.reshape(window, (*window.tensor.shape, 1)))
    real = _part(n, frames, 0)
    cosines, sines = _fourier(n, length, signal.tensor.dtype)
    results = [n.emit(ops.Matmul(), real, m) for m in (cosines, sines)]
    if frames.tensor.shape[-1] == 2:
        imaginary = _part(n, frames, 1)
        a, b = (n.emit(ops.Matmul(), imaginary, m) for m in (sines, cosines))
        results = [
            n.binary(BinaryKind.SUB, results[0], a),
            n.binary(BinaryKind.ADD, results[1], b),
        ]
    pairs = [n.reshape(v, (*v.tensor.shape, 1)) for v in results]
    return n.emit(ops.Concat(axis=3), *pairs)


def _fourier(n: OnnxNode, length: int, dtype: DType) -> tuple[Value, Value]:
    """Return the matrices [length, bins] of the cosines and sines of ``-2 pi k t / length``."""
    bins = length // 2 + 1 if n.flag("onesided", True) else length
    angles = -2 * np.pi * np.outer(np.arange(length), np.arange(bins)) / length
    return n.constant(np.cos(angles), dtype), n.constant(np.sin(angles), dtype)


def _frame_length(n: OnnxNode, window: Value | None, frame_length: Value | None) -> int:
    if frame_length is not None:
        return int(n.required(frame_length, "frame_length").item())
    size = None if window is None else window.tensor.shape[0]
    if not isinstance(size, int):
        raise ImportFailed("neither a window of known size nor frame_length is given")
    return size


def _frames(n: OnnxNode, signal: Value, step: int, length: int) -> Value:
    """Return overlapping frames [batch, frames, length, 1 or 2]."""
    if signal.tensor.rank == 2:
        signal = n.reshape(signal, (*signal.tensor.shape, 1))
    count = floordiv(signal.tensor.shape[1] - length, step) + 1
    starts = n.emit(ops.Range(length=count), n.constant(0, DType.I64), n.constant(step, DType.I64))
    offsets = n.constant(np.arange(length), DType.I64)
    places = n.binary(BinaryKind.ADD, n.reshape(starts, (count, 1)), offsets)
    return n.emit(ops.Gather(axis=1), signal, places)


def _part(n: OnnxNode, frames: Value, index: int) -> Value:
    part = slice_axis(n, frames, 3, index, 1)
    return n.reshape(part, part.tensor.shape[:-1])
