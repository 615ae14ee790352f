"""Samples of lamina.ops.contraction, einsum and deform."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from lamina.ops import (
    ActivationKind,
    Convolution,
    Deconvolution,
    DeformConvolution,
    Einsum,
    Epilogue,
    Matmul,
)
from tests.samples.sample import OnnxForm, integers, normal, sample

_RELU = Epilogue(ActivationKind.RELU)
_CLIP = Epilogue(ActivationKind.CLIP, -0.5, 1.0)


def _spatial(op, rank, strides, dilations, begin, end, **more):
    def fill(v):
        return v if isinstance(v, tuple) else (v,) * rank

    return op(
        strides=fill(strides),
        dilations=fill(dilations),
        pads_begin=fill(begin),
        pads_end=fill(end),
        **more,
    )


def _attributes(op):
    return {
        "strides": op.strides,
        "dilations": op.dilations,
        "pads": (*op.pads_begin, *op.pads_end),
        "group": op.groups,
    }


def _conv(rank, x, w, strides=1, dilations=1, begin=0, end=0, groups=1, bias=False):
    op = _spatial(Convolution, rank, strides, dilations, begin, end, groups=groups)
    more = [normal(w[0], seed=2)] if bias else []
    onnx = OnnxForm("Conv", _attributes(op))
    return sample(op, normal(*x), normal(*w, seed=1), *more, onnx=onnx)


def _deconv(rank, x, w, strides=1, dilations=1, begin=0, end=0, extra=0, groups=1, bias=False):
    extra = (extra,) * rank
    op = _spatial(
        Deconvolution, rank, strides, dilations, begin, end, groups=groups, output_padding=extra
    )
    more = [normal(w[1] * groups, seed=2)] if bias else []
    onnx = OnnxForm("ConvTranspose", {**_attributes(op), "output_padding": extra}, runtime=True)
    return sample(op, normal(*x), normal(*w, seed=1), *more, onnx=onnx)


def _fused(op, x, w, result):
    inputs = (normal(*x), normal(*w, seed=1), normal(result[1], seed=2), normal(*result, seed=3))
    return sample(op, *inputs)


def _deform(x, w, taps, out, groups=1, offset_groups=1, mask=True, **window):
    strides, dilations, begin, end = (
        window.get(k, d) for k, d in (("strides", 1), ("dilations", 1), ("begin", 0), ("end", 0))
    )
    op = _spatial(
        DeformConvolution,
        2,
        strides,
        dilations,
        begin,
        end,
        groups=groups,
        offset_groups=offset_groups,
    )
    inputs = [normal(*x), normal(*w, seed=1), normal(x[0], taps * offset_groups * 2, *out, seed=2)]
    if mask:
        inputs += [normal(w[0], seed=3), normal(x[0], taps * offset_groups, *out, seed=4)]
    attributes = {**_attributes(op), "offset_group": offset_groups, "kernel_shape": w[2:]}
    return sample(op, *inputs, onnx=OnnxForm("DeformConv", attributes, opset=22))


_CONV_3X3 = {"rank": 2, "strides": 1, "dilations": 1, "begin": 1, "end": 1}
SAMPLES = {
    Convolution: [
        _conv(2, (2, 3, 7, 6), (4, 3, 3, 3), begin=1, end=1, bias=True),
        _conv(
            2,
            (1, 4, 9, 8),
            (6, 2, 3, 2),
            strides=(2, 1),
            dilations=(1, 2),
            begin=(1, 0),
            end=(0, 2),
            groups=2,
        ),
        _conv(2, (2, 6, 5, 5), (6, 1, 3, 3), begin=1, end=1, groups=6, bias=True),
        _conv(1, (2, 3, 11), (5, 3, 4), strides=2, dilations=2, begin=3, end=1),
        _conv(3, (1, 2, 5, 6, 4), (3, 2, 2, 3, 1), begin=1, end=0, bias=True),
        _fused(
            _spatial(Convolution, 2, 1, 1, 1, 1, activation=_RELU),
            (2, 3, 5, 5),
            (4, 3, 3, 3),
            (2, 4, 5, 5),
        ),
        sample(
            _spatial(Convolution, 1, 1, 1, 0, 0),
            np.ones((1, 4096, 1), np.float16),
            np.ones((1, 4096, 1), np.float16),
            expected=[[[4096]]],
        ),
        sample(
            _spatial(Convolution, 2, 1, 1, 0, 0),
            integers(1, 2, 4, 4, dtype=np.int32),
            integers(3, 2, 2, 2, dtype=np.int32),
        ),
    ],
    Deconvolution: [
        _deconv(2, (2, 3, 4, 5), (3, 4, 3, 3), strides=2, begin=1, end=1, extra=1, bias=True),
        _deconv(2, (1, 4, 3, 3), (4, 2, 2, 3), dilations=2, groups=2),
        _deconv(1, (2, 3, 6), (3, 2, 4), strides=3, begin=1, end=2),
        _deconv(3, (1, 2, 3, 3, 2), (2, 3, 2, 2, 2), strides=2, bias=True),
        _fused(
            _spatial(Deconvolution, 2, 2, 1, 0, 0, activation=_CLIP, output_padding=(0, 0)),
            (2, 3, 2, 2),
            (3, 4, 2, 2),
            (2, 4, 4, 4),
        ),
    ],
    DeformConvolution: [
        _deform((2, 4, 6, 5), (6, 4, 3, 3), 9, (6, 5), begin=1, end=1),
        _deform((1, 4, 6, 6), (4, 2, 2, 2), 4, (3, 3), groups=2, offset_groups=2, strides=2),
        _deform((1, 2, 6, 6), (3, 2, 2, 2), 4, (4, 4), dilations=2, mask=False),
    ],
    Matmul: [
        sample(Matmul(), normal(5, 3), normal(3, 4, seed=1), onnx=OnnxForm("MatMul")),
        sample(Matmul(), normal(2, 1, 5, 3), normal(6, 3, 4, seed=1), onnx=OnnxForm("MatMul")),
        sample(
            Matmul(transpose_a=True, transpose_b=True),
            normal(3, 5),
            normal(4, 3, seed=1),
            normal(4, seed=2),
            onnx=OnnxForm("Gemm", {"transA": 1, "transB": 1}),
        ),
        sample(
            Matmul(activation=_RELU),
            normal(2, 5, 3),
            normal(3, 4, seed=1),
            normal(4, seed=2),
            normal(2, 5, 4, seed=3),
        ),
        sample(
            Matmul(), normal(3, 8, dtype=ml_dtypes.bfloat16), normal(8, 2, dtype=ml_dtypes.bfloat16)
        ),
        sample(
            Matmul(),
            np.ones((1, 4096), np.float16),
            np.ones((4096, 1), np.float16),
            expected=[[4096]],
        ),
        sample(Matmul(), integers(2, 3, dtype=np.int32), integers(3, 2, dtype=np.int32)),
    ],
    Einsum: [
        sample(
            Einsum(equation="ij,jk->ik"),
            normal(2, 3),
            normal(3, 4, seed=1),
            onnx=OnnxForm("Einsum", {"equation": "ij,jk->ik"}),
        ),
        sample(
            Einsum(equation="...ij, ...jk"),
            normal(5, 2, 3),
            normal(5, 3, 4, seed=1),
            onnx=OnnxForm("Einsum", {"equation": "...ij, ...jk"}),
        ),
        sample(
            Einsum(equation="ii->i"), normal(3, 3), onnx=OnnxForm("Einsum", {"equation": "ii->i"})
        ),
        sample(
            Einsum(equation="b...i,b...i->b..."),
            normal(2, 4, 3, dtype=np.float16),
            normal(2, 4, 3, dtype=np.float16, seed=1),
        ),
        sample(
            Einsum(equation="ij,j,k->"),
            normal(2, 3),
            normal(3, seed=1),
            normal(4, seed=2),
            onnx=OnnxForm("Einsum", {"equation": "ij,j,k->"}),
        ),
    ],
}
