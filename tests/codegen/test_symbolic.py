"""One kernel with symbolic sizes works for every value of the symbols."""

from __future__ import annotations

import numpy as np
import pytest
from tests.codegen.running import ISAS, Compiled, assert_close

from lamina import ops
from lamina.codegen.kernels import Reject, kernel_for
from lamina.ir.dims import evaluate, floordiv, parse_dim, sym
from lamina.ir.graph import Graph, emit_node
from lamina.ir.interpret import interpret
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType
from lamina.ops.kinds import (
    ActivationKind,
    BinaryKind,
    CoordinateMode,
    CumulativeKind,
    InterpolationMode,
    NearestMode,
    PadMode,
    PoolKind,
    ReduceKind,
)

B, S = sym("b"), sym("s")
CASES = {
    "gelu": (ops.Activation(kind=ActivationKind.GELU), [(B, S, 7)]),
    "add": (ops.Binary(kind=BinaryKind.ADD), [(B, S, 24), (S, 24)]),
    "maybe_broadcast": (ops.Binary(kind=BinaryKind.MUL), [(B, S), (B, sym("t"))]),
    "softmax": (ops.Softmax(axis=2), [(B, 3, S)]),
    "softmax_outer": (ops.Softmax(axis=1), [(B, S, 33)]),
    "layer_norm": (ops.LayerNorm(axis=2, epsilon=1e-5), [(B, S, 48), (48,), (48,)]),
    "mean": (ops.Reduce(kind=ReduceKind.MEAN, axes=(1,), keepdims=False), [(B, S, 20)]),
    "sum_all": (ops.Reduce(kind=ReduceKind.SUM, axes=(0, 1), keepdims=False), [(B, S)]),
    "instance_norm": (ops.InstanceNorm(epsilon=1e-5), [(B, 5, S), (5,), (5,)]),
    "transpose": (ops.Transpose(perm=(0, 2, 1)), [(B, S, 40)]),
    "heads": (ops.Transpose(perm=(0, 2, 1, 3)), [(B, S, 4, 16)]),
    "reshape": (ops.Reshape(shape=(B * S, 12)), [(B, S, 3, 4)]),
    "slice": (ops.Slice(starts=(0, 1), sizes=(B, S - 1), steps=(1, 1)), [(B, S)]),
    "concat": (ops.Concat(axis=1), [(B, S), (B, 5)]),
    "pad": (ops.Pad(mode=PadMode.CONSTANT, pads_begin=(0, 2), pads_end=(1, S)), [(B, S)]),
    "tile": (ops.Tile(repeats=(1, 3)), [(B, S)]),
    "cumsum": (ops.Cumulative(kind=CumulativeKind.SUM, axis=1, reverse=True), [(B, S, 5)]),
    "trilu": (ops.Trilu(upper=False), [(B, S, S)]),
    "expand": (ops.Expand(shape=(B, S, 6)), [(S, 1)]),
    "pool": (
        ops.Pool(
            kind=PoolKind.MAX, kernel=(3,), strides=(2,), dilations=(1,), pads_begin=(1,),
            pads_end=(1,),
        ),
        [(B, 3, S)],
    ),
}  # fmt: skip

RESIZES = {
    "linear": dict(mode=InterpolationMode.LINEAR),
    "linear_corners": dict(
        mode=InterpolationMode.LINEAR, coordinate_mode=CoordinateMode.ALIGN_CORNERS
    ),
    "linear_pytorch": dict(
        mode=InterpolationMode.LINEAR, coordinate_mode=CoordinateMode.PYTORCH_HALF_PIXEL
    ),
    "linear_symmetric": dict(
        mode=InterpolationMode.LINEAR, coordinate_mode=CoordinateMode.HALF_PIXEL_SYMMETRIC
    ),
    "nearest_floor": dict(
        coordinate_mode=CoordinateMode.ASYMMETRIC, nearest_mode=NearestMode.FLOOR
    ),
    "nearest_ceil": dict(nearest_mode=NearestMode.CEIL),
    "nearest_half": dict(nearest_mode=NearestMode.ROUND_PREFER_CEIL),
}
for _name, _how in RESIZES.items():
    CASES[_name] = (ops.Resize(sizes=(B, 3, S + 4, 3 * S), **_how), [(B, 3, S, S + 1)])
for _mode in (PadMode.EDGE, PadMode.WRAP, PadMode.REFLECT):
    CASES[f"pad_{_mode}"] = (
        ops.Pad(mode=_mode, pads_begin=(0, 2), pads_end=(0, 3)),
        [(B, S + 1)],
    )
CASES["nearest_double"] = (ops.Resize(sizes=(B, 3, 2 * S)), [(B, 3, S)])
CASES["scaled"] = (
    ops.Resize(
        sizes=(B, 3, floordiv(3 * S, 2)), scales=(1.0, 1.0, 1.5), mode=InterpolationMode.LINEAR
    ),
    [(B, 3, S)],
)


@pytest.mark.parametrize("name", CASES)
def test_symbolic_sizes(name):
    op, shapes = CASES[name]
    graph = Graph()
    operands = [graph.input(f"x{i}", TensorType(DType.F32, s)) for i, s in enumerate(shapes)]
    node = emit_node(op, operands, loc=Loc("test"))
    graph.output(node.output)
    kernel = kernel_for(node)
    assert not isinstance(kernel, Reject), kernel.reason
    compiled = Compiled(kernel, ISAS[len(name) % 2])
    rng = np.random.default_rng(0)
    for b, s in [(1, 1), (2, 7), (3, 16), (1, 45), (5, 64)]:
        symbols = {"b": b, "s": s, "t": 1 if s % 2 else s}
        xs = [
            rng.standard_normal([evaluate(d, symbols) for d in shape]).astype(np.float32)
            for shape in shapes
        ]
        (wanted,) = interpret(graph, xs, symbols=symbols)
        found = np.full(wanted.shape, 9, np.float32)
        compiled([*xs, found], nthreads=3, symbols=symbols)
        assert_close(found, wanted, 1e-5)


def test_rounding_division_of_symbols():
    """Strides made of ceiling and floor divisions are computed as the expressions say."""
    size = parse_dim("ceildiv(s,3)+floordiv(s,2)")
    graph = Graph()
    x = graph.input("x", TensorType(DType.F32, (2, size)))
    node = emit_node(ops.Transpose(perm=(1, 0)), [x], loc=Loc("test"))
    kernel = kernel_for(node)
    assert not isinstance(kernel, Reject)
    compiled = Compiled(kernel)
    for s in (1, 2, 9, 31):
        n = int(evaluate(size, {"s": s}))
        data = np.random.default_rng(s).standard_normal((2, n)).astype(np.float32)
        found = np.zeros((n, 2), np.float32)
        compiled([data, found], symbols={"s": s})
        np.testing.assert_array_equal(found, data.T)
