"""Kernels of convolutions that only a GPU runs as they are meant, each alone."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.cuda.sections import on_device
from tests.samples.sample import normal

import lamina
from lamina import ops
from lamina.backends.cuda import bindings
from lamina.backends.cuda import compiler as compiler_of_cuda
from lamina.backends.cuda.tactics.convolution import TritonConvolutionBoxes
from lamina.backends.cuda.tactics.generated import Generated
from lamina.backends.cuda.tactics.rolling import RollingConvolution
from lamina.backends.cuda.tactics.specialized_boxes import SpecializedConvolution
from lamina.backends.cuda.tactics.specialized_pair import SpecializedPair
from lamina.backends.cuda.tactics.spread import TritonSpread
from lamina.backends.cuda.tactics.stem import StemConvolution
from lamina.backends.cuda.tactics.streamed import StreamedChain
from lamina.errors import DeviceError
from lamina.ir.interpret import interpret
from lamina.ir.text import parse_graph

pytestmark = pytest.mark.gpu

RELU = "activation={relu,0.0,0.0}"
DENSE = "dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)"
HALF = "strides=(2,2) dilations=(1,1) pads_begin=(3,3) pads_end=(3,3)"
POINT = "strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)"
HALVED = "strides=(2,2) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)"
STEPS = "strides=(2,2) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)"
APART = "strides=(2,2) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0) output_padding=(0,0)"
WINDOWS = """graph(%x: {t}[{n},{c},{h},{w}]) {{
  %w = const() type={t}[64,{c},3,3] seed=1
  %c = const() type={t}[64] seed=2
  %v = const() type={t}[128,64,3,3] seed=3
  %u = const() type={t}[64,128,3,3] seed=4
  %h = convolution(%x, %w, %c) strides=(1,1) DENSE RELU
  %g = convolution(%h, %v) strides=(1,1) DENSE RELU
  %y = convolution(%g, %u, %c, %h) strides=(1,1) DENSE RELU
  return %y
}}"""
POINTS = """graph(%x: {t}[{n},{c},{h},{w}]) {{
  %w = const() type={t}[128,{c},3,3] seed=1
  %c = const() type={t}[128] seed=2
  %v = const() type={t}[256,128,1,1] seed=3
  %u = const() type={t}[128,256,1,1] seed=4
  %h = convolution(%x, %w, %c) strides=(1,1) DENSE RELU
  %g = convolution(%h, %v) POINT RELU
  %y = convolution(%g, %u, %c, %h) POINT RELU
  return %y
}}"""
SPREAD = """graph(%x: {t}[{n},{c},{h},{w}]) {{
  %w = const() type={t}[{c},64,2,2] seed=1
  %c = const() type={t}[64] seed=2
  %y = deconvolution(%x, %w, %c) APART
  return %y
}}"""
CHAIN = """graph @1(%i0: {t}[{n},{c},{h},{w}], %i1: {t}[136,{c},1,1], %i2: {t}[136], \
%i3: {t}[{n},136,{h},{w}], %i4: {t}[64,136,1,1]) {{
  %y = convolution(%i0, %i1, %i2, %i3) POINT RELU
  %z = convolution(%y, %i4) POINT RELU
  return %y, %z
}}
graph(%x: {t}[{n},{c},{h},{w}]) {{
  %v = const() type={t}[136,{c},1,1] seed=1
  %w = const() type={t}[136,{c},1,1] seed=2
  %b = const() type={t}[136] seed=3
  %u = const() type={t}[64,136,1,1] seed=4
  %q = const() type={t}[136,64,1,1] seed=5
  %h = convolution(%x, %v) POINT RELU
  %y, %z = region(%x, %w, %b, %h, %u) body=@1 kind="convolutions"
  %r = convolution(%z, %q, %b, %y) POINT RELU
  return %r
}}"""
PAIR = """graph @1(%i0: {t}[{n},{c},{h},{w}], %i1: {t}[136,{c},3,3], %i2: {t}[136], \
%i3: {t}[136,{c},1,1]) {{
  %s = convolution(%i0, %i3, %i2) HALVED
  %h = convolution(%i0, %i1, %i2, %s) STEPS RELU
  return %h
}}
graph(%x: {t}[{n},{c},{h},{w}]) {{
  %v = const() type={t}[136,{c},3,3] seed=1
  %b = const() type={t}[136] seed=2
  %w = const() type={t}[136,{c},1,1] seed=3
  %y = region(%x, %v, %b, %w) body=@1 kind="convolutions"
  return %y
}}"""
STEM = """graph(%x: {t}[{n},{c},{h},{w}]) {{
  %w = const() type={t}[64,{c},7,7] seed=1
  %c = const() type={t}[64] seed=2
  %h = convolution(%x, %w, %c) HALF RELU
  %y = pool(%h) kind=max kernel=(3,3) strides=(2,2) DENSE
  return %y
}}"""
FIRST = """graph(%x: {t}[{n},{c},{h},{w}]) {{
  %w = const() type={t}[40,{c},3,3] seed=1
  %c = const() type={t}[40] seed=2
  %y = convolution(%x, %w, %c) strides=(2,2) DENSE RELU
  return %y
}}"""
TOLERANCE = {"f16": 4e-3, "bf16": 3e-2}
"""Relative to the norm of the result."""
CASES = {
    "rolling": (WINDOWS, (RollingConvolution(),), [(3, 64, 29, 45), (16, 128, 56, 56)]),
    "rolling of wide and small": (
        WINDOWS, (RollingConvolution(),), [(1, 64, 200, 130), (133, 64, 7, 7)],
    ),
    "boxes": (WINDOWS, (TritonConvolutionBoxes(),), [(3, 64, 29, 45), (1, 128, 7, 7)]),
    "specialized": (
        POINTS, (SpecializedConvolution(),), [(3, 64, 60, 47), (66, 128, 28, 28)],
    ),
    "chain": (
        CHAIN, (StreamedChain(), SpecializedConvolution()), [(3, 64, 150, 151), (16, 40, 64, 66)],
    ),
    "pair": (PAIR, (SpecializedPair(),), [(3, 64, 120, 94), (66, 128, 28, 28)]),
    "stem": (STEM, (StemConvolution(),), [(3, 3, 29, 250), (9, 3, 112, 112)]),
    "first layer": (FIRST, (StemConvolution(),), [(2, 4, 31, 300), (17, 1, 128, 128)]),
    "spread": (SPREAD, (TritonSpread(),), [(3, 72, 29, 45), (1, 1024, 16, 16), (16, 128, 64, 64)]),
}  # fmt: skip


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("which", CASES)
def test_alone(monkeypatch, which, dtype):
    try:
        device = bindings.open_device(0)
    except DeviceError as e:
        pytest.skip(str(e))
    text, tactics, shapes = CASES[which]
    monkeypatch.setattr(compiler_of_cuda, "TACTICS", (*tactics, Generated()))
    for n, c, h, w in shapes:
        written = text.format(t=dtype, n=n, c=c, h=h, w=w)
        for name, words in (
            ("DENSE", DENSE),
            ("HALF", HALF),
            ("POINT", POINT),
            ("APART", APART),
            ("HALVED", HALVED),
            ("STEPS", STEPS),
            ("RELU", RELU),
        ):
            written = written.replace(name, words)
        graph = parse_graph(written, ops.BY_NAME)
        engine = lamina.build(graph, target="cuda", timing_cache="")
        # Three convolutions of numbers around 1 would leave the range of f16.
        x = normal(n, c, h, w, seed=7) / 16
        x = x.astype(graph.inputs[0].tensor.dtype.numpy)
        (wanted,) = interpret(parse_graph(written, ops.BY_NAME), [x])
        given = on_device(device, x)
        for _ in range(3):
            (y,) = engine.run({"x": given}).values()
        wanted = wanted.astype(np.float64)
        error = np.linalg.norm(np.asarray(y).astype(np.float64) - wanted) / np.linalg.norm(wanted)
        assert error < TOLERANCE[dtype], (which, (n, c, h, w), error)
