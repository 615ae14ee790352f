"""Builds regions of convolutions and runs their candidates in the interpreter."""

from __future__ import annotations

import numpy as np
from tests.backends.cuda.contractions import compare, laid_out
from tests.backends.cuda.interpreter import run
from tests.samples.sample import normal

from lamina.codegen.layout import Layout
from lamina.ir.graph import Graph, emit, emit_node
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType
from lamina.ops import ActivationKind, Const, Convolution, Epilogue, Pool
from lamina.ops.kinds import PoolKind
from lamina.passes.fusion import region_of
from lamina.tactics.candidate import Placement
from lamina.tactics.form import Form, layout

HERE = Loc("test")
RELU = Epilogue(ActivationKind.RELU)
SIX = Epilogue(ActivationKind.CLIP, 0.0, 6.0)


class Network:
    """A graph of convolutions, with an array for each of its operands."""

    def __init__(self, dtype=np.float16):
        self.graph, self.nodes, self.arrays = Graph(), [], {}
        self.dtype = dtype

    def image(self, *shape, symbolic=None):
        array = normal(*shape, seed=len(self.arrays), dtype=self.dtype)
        name = f"x{len(self.graph.inputs)}"
        v = self.graph.input(name, TensorType(DType.of(array.dtype), symbolic or shape))
        self.arrays[v] = array
        return v

    def constant(self, *shape, scale=1.0):
        array = (normal(*shape, seed=len(self.arrays)) * scale).astype(self.dtype)
        v = emit(Const.of(array), (), loc=HERE)
        self.arrays[v] = array
        return v

    def convolution(self, x, filters, taps=1, stride=1, activation=RELU, residual=None, pad=None):
        channels = x.tensor.shape[1]
        pads = (taps // 2 if pad is None else pad,) * 2
        op = Convolution(
            strides=(stride,) * 2, dilations=(1, 1), pads_begin=pads, pads_end=pads,
            activation=activation,
        )  # fmt: skip
        scale = (channels * taps * taps) ** -0.5
        operands = [x, self.constant(filters, channels, taps, taps, scale=scale)]
        operands.append(self.constant(filters))
        operands += [] if residual is None else [residual]
        return self._emit(op, operands)

    def depthwise(self, x, taps=3, stride=1, dilation=1, activation=SIX, residual=None):
        channels, pads = x.tensor.shape[1], (taps // 2 * dilation,) * 2
        op = Convolution(
            strides=(stride,) * 2, dilations=(dilation,) * 2, pads_begin=pads, pads_end=pads,
            groups=channels, activation=activation,
        )  # fmt: skip
        operands = [x, self.constant(channels, 1, taps, taps, scale=1 / taps)]
        operands.append(self.constant(channels))
        return self._emit(op, operands + ([] if residual is None else [residual]))

    def maximum(self, x, kernel, stride, pad, ceil_mode=False):
        op = Pool(
            kind=PoolKind.MAX, kernel=kernel, strides=stride, dilations=(1, 1),
            pads_begin=pad, pads_end=pad, ceil_mode=ceil_mode,
        )  # fmt: skip
        return self._emit(op, [x])

    def _emit(self, op, operands):
        node = emit_node(op, operands, loc=HERE)
        self.nodes.append(node)
        return node.output

    def region(self, *results):
        return region_of(self.nodes, results, attached=True)


def chain(n, size, channels, wide, back, dtype=np.float16, front=0, shortcut=0, symbolic=None):
    """Return a network and its region: front of ``front`` taps, middle, back (0: none of them).

    ``shortcut`` is the stride of a second convolution that the middle adds; 0: it adds an image.
    """
    net = Network(dtype)

    def shape(channels, size):
        return (symbolic, channels, size, size) if symbolic is not None else None

    x = net.image(n, channels, size, size, symbolic=shape(channels, size))
    if shortcut:
        at = size * shortcut
        z = net.image(n, channels, at, at, symbolic=shape(channels, at))
        rest = net.convolution(z, wide, stride=shortcut, activation=None)
    else:
        rest = net.image(n, wide, size, size, symbolic=shape(wide, size))
    first = net.convolution(x, channels, front) if front else x
    middle = net.convolution(first, wide, residual=rest)
    results = [middle] + ([net.convolution(middle, back)] if back else [])
    return net, net.region(*results)


def check(net, node, candidate, env=None, gap=0):
    """Compare a candidate with the region's meaning; ``gap`` channels follow each pixel's."""
    given = [net.arrays[v] for v in node.inputs]
    forms = [f or Form.PLAIN for f in candidate.reads]
    operands = tuple(layout(v.tensor, f) for v, f in zip(node.inputs, forms, strict=True))
    arrays = [laid_out(a, f) for a, f in zip(given, forms, strict=True)]
    results, outs = [], []
    for v in node.outputs:
        shape = list(v.tensor.substitute(env or {}).static_shape)
        whole = TensorType(v.tensor.dtype, (v.tensor.shape[0], shape[1] + gap, *shape[2:]))
        results.append(Layout(layout(whole, Form.CHANNELS_LAST).strides, 0))
        shape[1] += gap
        outs.append(laid_out(np.full(shape, 77, v.tensor.dtype.numpy), Form.CHANNELS_LAST))
    run(candidate.draft(Placement(operands, tuple(results), "")), arrays, outs, env)
    for out, wanted in zip(outs, node.op.reference(*given), strict=True):
        got = np.moveaxis(out, -1, 1)
        assert (got[:, got.shape[1] - gap :] == 77).all(), "wrote into its neighbour"
        compare(got[:, : got.shape[1] - gap], wanted, candidate.tactic)


def offered(tactic, node, target):
    """Return the candidates, the most promising first; their names must differ."""
    found = tactic.candidates(node, target)
    assert isinstance(found, list), found
    assert len({c.tactic for c in found}) == len(found), "names must be unique"
    return sorted(found, key=lambda c: (c.estimate_microseconds, c.tactic))
