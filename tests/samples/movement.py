"""Samples of the operators that only move elements."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from lamina import ops
from lamina.ir.dims import sym
from lamina.ops import PadMode
from tests.samples.sample import OnnxForm, integers, normal, sample

_n = sym("n")


def _i64(*values):
    return np.array(values, np.int64)


def _pad(mode, begin, end, *extra):
    onnx = OnnxForm("Pad", {"mode": mode.value}, (0, _i64(*begin, *end), *extra))
    return ops.Pad(mode=mode, pads_begin=begin, pads_end=end), onnx


def _padded(mode, begin, end, x):
    op, onnx = _pad(mode, begin, end)
    return sample(op, x, onnx=onnx)


_SLICED = OnnxForm("Slice", {}, (0, _i64(1, -1), _i64(4, -100), _i64(0, 1), _i64(1, -2)))

SAMPLES = {
    ops.Reshape: [
        sample(
            ops.Reshape(shape=(3, 4)), normal(2, 6), onnx=OnnxForm("Reshape", {}, (0, _i64(3, -1)))
        ),
        sample(ops.Reshape(shape=()), normal(1, 1)),
        sample(ops.Reshape(shape=(4, 0)), normal(0, 7), symbolic=False),
        sample(ops.Reshape(shape=(6,)), integers(2, 3, dtype=ml_dtypes.int4, low=-8, high=7)),
    ],
    ops.Transpose: [
        sample(
            ops.Transpose(perm=(2, 0, 1)),
            normal(2, 3, 4),
            onnx=OnnxForm("Transpose", {"perm": [2, 0, 1]}),
        ),
        sample(ops.Transpose(perm=()), normal()),
        sample(ops.Transpose(perm=(1, 0)), normal(2, 3, dtype=ml_dtypes.bfloat16)),
    ],
    ops.Expand: [
        sample(
            ops.Expand(shape=(2, 3, 4)),
            normal(3, 1),
            onnx=OnnxForm("Expand", {}, (0, _i64(2, 1, 4))),
        ),
        sample(ops.Expand(shape=(5,)), normal(1)),
        sample(ops.Expand(shape=(3, 0)), normal(1)),
    ],
    ops.Slice: [
        sample(ops.Slice(starts=(1, 6), sizes=(3, 4), steps=(1, -2)), normal(5, 7), onnx=_SLICED),
        sample(
            ops.Slice(starts=(4,), sizes=(5,), steps=(-1,)), normal(5), expected=normal(5)[::-1]
        ),
        sample(ops.Slice(starts=(0, 2), sizes=(2, 0), steps=(1, 1)), normal(2, 3)),
    ],
    ops.Concat: [
        sample(
            ops.Concat(axis=1),
            normal(2, 3),
            normal(2, 1, seed=1),
            normal(2, 4, seed=2),
            onnx=OnnxForm("Concat", {"axis": 1}),
        ),
        sample(ops.Concat(axis=0), integers(3)),
    ],
    ops.Pad: [
        _padded(PadMode.CONSTANT, (1, 0), (0, 2), normal(2, 3)),
        _padded(PadMode.EDGE, (1, 3), (2, 0), normal(2, 3)),
        _padded(PadMode.REFLECT, (1, 2), (1, 0), normal(2, 3)),
        _padded(PadMode.WRAP, (1, 2), (2, 1), normal(2, 3)),
        sample(
            ops.Pad(pads_begin=(0, 2), pads_end=(1, 0)),
            normal(2, 3),
            np.float32(1.5),
            onnx=OnnxForm("Pad", {}, (0, _i64(0, 2, 1, 0), 1)),
        ),
        sample(
            ops.Pad(pads_begin=(-1,), pads_end=(2,)),
            np.float32([1, 2, 3]),
            expected=np.float32([2, 3, 0, 0]),
        ),
        sample(
            ops.Pad(mode=PadMode.REFLECT, pads_begin=(-1,), pads_end=(3,)),
            np.float32([1, 2, 3, 4]),
            expected=np.float32([2, 3, 4, 3, 2, 3]),
        ),
        sample(
            ops.Pad(mode=PadMode.REFLECT, pads_begin=(5,), pads_end=(0,)),
            np.float32([1, 2, 3]),
            expected=np.float32([2, 1, 2, 3, 2, 1, 2, 3]),
        ),
    ],
    ops.Tile: [
        sample(ops.Tile(repeats=(2, 3)), normal(2, 2), onnx=OnnxForm("Tile", {}, (0, _i64(2, 3)))),
        sample(ops.Tile(repeats=(0,)), normal(3)),
    ],
}
