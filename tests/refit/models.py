"""Small networks that every precision and device compiles, with weights that have names."""

from __future__ import annotations

import numpy as np

from lamina import ops
from lamina.ir.graph import Graph, Value, emit
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType
from lamina.ops.kinds import ActivationKind, BinaryKind

Arrays = dict[str, np.ndarray]

SHAPES = {
    "first": (16, 3, 3, 3), "scale": (16,), "shift": (16,), "mean": (16,), "variance": (16,),
    "second": (24, 16, 3, 3), "bias": (24, 1, 1), "depthwise": (24, 1, 3, 3),
    "matrix": (24, 20), "gain": (20,), "last": (7, 20),
}  # fmt: skip


def weights(seed: int) -> Arrays:
    """Return contents of the weights."""
    rng = np.random.default_rng(seed)
    made = {n: rng.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}
    return made | {"variance": np.abs(made["variance"]) + np.float32(0.5)}


def graph(given: Arrays) -> Graph:
    """Convolutions with batch normalization, bias and activations, then matrix products."""
    g = Graph()
    x = g.input("x", TensorType(DType.F32, (2, 3, 8, 8)))
    c = {n: emit(ops.Const.of(w, n), (), loc=Loc(n)) for n, w in given.items()}

    def add(op: ops.Op, *operands: Value) -> Value:
        return emit(op, operands, loc=Loc("layer"))

    def convolved(x: Value, w: Value, groups: int = 1) -> Value:
        ones = {"strides": (1, 1), "dilations": (1, 1), "pads_begin": (1, 1), "pads_end": (1, 1)}
        return add(ops.Convolution(**ones, groups=groups), x, w)

    statistics = [c[n] for n in ("scale", "shift", "mean", "variance")]
    y = add(ops.BatchNorm(epsilon=1e-5), convolved(x, c["first"]), *statistics)
    y = add(ops.Activation(kind=ActivationKind.RELU), y)
    y = add(ops.Binary(kind=BinaryKind.ADD), convolved(y, c["second"]), c["bias"])
    y = add(ops.Activation(kind=ActivationKind.RELU), convolved(y, c["depthwise"], groups=24))
    y = add(ops.Reduce(kind=ops.ReduceKind.MEAN, axes=(2, 3), keepdims=False), y)
    y = add(ops.Binary(kind=BinaryKind.MUL), add(ops.Matmul(), y, c["matrix"]), c["gain"])
    g.output(add(ops.Matmul(transpose_b=True), y, c["last"]), "y")
    return g


X = np.random.default_rng(5).standard_normal((2, 3, 8, 8)).astype(np.float32)


def products(given: Arrays) -> Graph:
    """The matrix products of the network alone, on 24 features: quick in an interpreter."""
    g = Graph()
    x = g.input("x", TensorType(DType.F32, (2, 24)))
    c = {n: emit(ops.Const.of(given[n], n), (), loc=Loc(n)) for n in ("matrix", "gain", "last")}
    y = emit(ops.Matmul(), (x, c["matrix"]), loc=Loc("product"))
    y = emit(ops.Binary(kind=BinaryKind.MUL), (y, c["gain"]), loc=Loc("gain"))
    g.output(emit(ops.Matmul(transpose_b=True), (y, c["last"]), loc=Loc("last")), "y")
    return g


ROWS = np.random.default_rng(6).standard_normal((2, 24)).astype(np.float32)


def wide_weights(seed: int) -> Arrays:
    """Return contents of the weight of :func:`wide`, which f16 holds, and of its scale."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((640, 896)).astype(np.float16).astype(np.float32)
    return {"wide": matrix, "scale": rng.standard_normal(896).astype(np.float16).astype(np.float32)}


def wide(given: Arrays) -> Graph:
    """A product with a large matrix, whose columns are scaled."""
    g = Graph()
    x = g.input("x", TensorType(DType.F32, (2, 640)))
    c = {n: emit(ops.Const.of(w, n), (), loc=Loc(n)) for n, w in given.items()}
    y = emit(ops.Matmul(), (x, c["wide"]), loc=Loc("product"))
    g.output(emit(ops.Binary(kind=BinaryKind.MUL), (y, c["scale"]), loc=Loc("scale")), "y")
    return g
