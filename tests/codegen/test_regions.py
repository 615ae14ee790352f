"""Random fused regions over random shapes and layouts give what the interpreter gives."""

from __future__ import annotations

import numpy as np
import pytest
from tests.codegen.running import ISAS, Compiled, Guarded, assert_close

from lamina import ops
from lamina.codegen.kernels import Reject, kernel_for, lower
from lamina.codegen.layout import Layout
from lamina.ir.graph import Graph, emit, emit_node
from lamina.ir.interpret import interpret
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType
from lamina.ops.kinds import ActivationKind, BinaryKind, ReduceKind, UnaryKind

HERE = Loc("test")
BINARY = (BinaryKind.ADD, BinaryKind.SUB, BinaryKind.MUL, BinaryKind.MAX, BinaryKind.MIN)
UNARY = (UnaryKind.NEG, UnaryKind.ABS, UnaryKind.TANH, UnaryKind.ERF, UnaryKind.SIN)
ACTIVATION = (ActivationKind.RELU, ActivationKind.SIGMOID, ActivationKind.SOFTSIGN)


def binary(kind, a, b):
    return emit(ops.Binary(kind=kind), [a, b], loc=HERE)


def random_layout(rng, shape):
    """Return a layout that may be permuted, padded, reversed or blocked."""
    kind = rng.integers(0, 6)
    if kind <= 1 or not shape:
        return Layout.dense(shape)
    if kind == 2:
        return Layout.ordered(shape, rng.permutation(len(shape)).tolist())
    if kind == 3 and len(shape) == 4:
        return Layout.blocked(shape, int(rng.choice([8, 16])))
    if kind == 4:
        wider = [int(d + rng.integers(0, 3)) for d in shape]
        dense = Layout.dense(wider)
        return Layout(dense.strides, int(rng.integers(0, 5)))
    doubled = Layout.dense([2 * d for d in shape])
    return Layout(tuple(2 * s for s in doubled.strides), 1)


def random_body(rng, shape, inputs):
    """Return values of a random pointwise program over graph inputs."""
    values = list(inputs)
    for _ in range(int(rng.integers(2, 9))):
        a, b = (values[int(i)] for i in rng.integers(0, len(values), 2))
        step = rng.integers(0, 6)
        if step <= 2:
            values.append(binary(BINARY[int(rng.integers(0, len(BINARY)))], a, b))
        elif step == 3:
            values.append(
                emit(ops.Unary(kind=UNARY[int(rng.integers(0, len(UNARY)))]), [a], loc=HERE)
            )
        elif step == 4:
            kind = ACTIVATION[int(rng.integers(0, len(ACTIVATION)))]
            values.append(emit(ops.Activation(kind=kind), [a], loc=HERE))
        else:
            test = binary(BinaryKind.LESS, a, b)
            values.append(emit(ops.Select(), [test, b, a], loc=HERE))
    whole = values[0]
    for v in values[1:]:
        whole = binary(BinaryKind.ADD, whole, v)
    return whole, [v for v in values[len(inputs) :] if v.tensor.shape == whole.tensor.shape]


def compile_and_compare(graph, xs, sources, targets, isa, tolerance, symbols=None):
    expected = interpret(graph, xs)
    kernel = lower(graph, sources, targets)
    assert not isinstance(kernel, Reject), kernel.reason
    held = [Guarded(x.shape, x.dtype, at, x) for x, at in zip(xs, sources, strict=True)]
    results = [Guarded(y.shape, y.dtype, at) for y, at in zip(expected, targets, strict=True)]
    Compiled(kernel, isa)([m.tensor for m in (*held, *results)], nthreads=3, symbols=symbols)
    for found, wanted in zip(results, expected, strict=True):
        found.check(wanted, tolerance)
    for operand, x in zip(held, xs, strict=True):
        operand.check(x)


@pytest.mark.parametrize("seed", range(60))
def test_random_pointwise_region(seed):
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 5))
    shape = tuple(int(rng.choice([1, 2, 3, 5, 16, 17, 21, 33])) for _ in range(rank))
    graph, xs, sources = Graph(), [], []
    for i in range(int(rng.integers(1, 4))):
        own = shape if i == 0 else tuple(int(rng.choice([d, 1])) for d in shape)
        own = own[int(rng.integers(0, rank)) :] if i else own
        graph.input(f"x{i}", TensorType(DType.F32, own))
        xs.append(rng.standard_normal(own).astype(np.float32))
        sources.append(random_layout(rng, own))
    whole, others = random_body(rng, shape, graph.inputs)
    graph.output(whole)
    for v in others[: int(rng.integers(0, 2))]:
        graph.output(v)
    targets = [random_layout(rng, shape) for _ in graph.outputs]
    compile_and_compare(graph, xs, sources, targets, ISAS[seed % 2], 1e-5)


@pytest.mark.parametrize("seed", range(40))
def test_random_reduction_with_prologue_and_epilogue(seed):
    rng = np.random.default_rng(1000 + seed)
    shape = tuple(int(rng.choice([1, 2, 3, 7, 16, 19, 40])) for _ in range(int(rng.integers(1, 5))))
    graph = Graph()
    x = graph.input("x", TensorType(DType.F32, shape))
    s = graph.input("s", TensorType(DType.F32, (shape[-1],)))
    before = emit(ops.Unary(kind=UnaryKind.ABS), [binary(BinaryKind.MUL, x, s)], loc=HERE)
    count = int(rng.integers(1, len(shape) + 1))
    axes = tuple(sorted(rng.choice(len(shape), count, replace=False).tolist()))
    kind = list(ReduceKind)[int(rng.integers(0, len(ReduceKind)))]
    kept = bool(rng.integers(0, 2))
    y = emit(ops.Reduce(kind=kind, axes=axes, keepdims=kept), [before], loc=HERE)
    graph.output(emit(ops.Activation(kind=ActivationKind.SIGMOID), [y], loc=HERE))
    if kept and rng.integers(0, 2):
        graph.output(binary(BinaryKind.SUB, before, y))
    xs = [rng.standard_normal(v.tensor.shape).astype(np.float32) for v in graph.inputs]
    sources = [random_layout(rng, shape), Layout.dense((shape[-1],))]
    targets = [Layout.dense(v.tensor.shape) for v in graph.outputs]
    compile_and_compare(graph, xs, sources, targets, ISAS[seed % 2], 3e-5)


ROWS = {
    "softmax": lambda x: ops.Softmax(axis=1),
    "softmax_last": lambda x: ops.Softmax(axis=3),
    "log_softmax": lambda x: ops.Softmax(axis=2, log=True),
    "layer_norm": lambda x: ops.LayerNorm(axis=2, epsilon=1e-5),
    "rms_norm": lambda x: ops.RmsNorm(axis=3, epsilon=1e-5),
    "instance_norm": lambda x: ops.InstanceNorm(epsilon=1e-5),
    "group_norm": lambda x: ops.GroupNorm(groups=4, epsilon=1e-5),
}
LAYOUTS = {
    "dense": Layout.dense,
    "last": Layout.channels_last,
    "blocked16": lambda s: Layout.blocked(s, 16),
    "blocked8": lambda s: Layout.blocked(s, 8),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ROWS)
def test_row_kernels_in_every_layout(name, layout):
    shape = (2, 32 if "group" in name else 20, 3, 9)
    op = ROWS[name](shape)
    graph = Graph()
    x = graph.input("x", TensorType(DType.F32, shape))
    total = binary(BinaryKind.ADD, x, x)
    operands = [total]
    if name in ("instance_norm", "group_norm"):
        operands += [graph.input(n, TensorType(DType.F32, (shape[1],))) for n in ("s", "b")]
    graph.output(emit(op, operands, loc=HERE))
    graph.output(total)
    rng = np.random.default_rng(5)
    xs = [rng.standard_normal(v.tensor.shape).astype(np.float32) for v in graph.inputs]
    place_x = LAYOUTS[layout](shape)
    sources = [place_x, *(Layout.dense(v.tensor.shape) for v in graph.inputs[1:])]
    targets = [place_x, Layout.dense(shape)]
    compile_and_compare(graph, xs, sources, targets, ISAS[len(name) % 2], 2e-5)


@pytest.mark.parametrize("source", LAYOUTS)
@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize("channels", [16, 35])
def test_reorders(source, target, channels):
    if channels % 16 and {source, target} == {"blocked8", "blocked16"}:
        channels = 32  # a padded block of one size is never cut into blocks of another
    shape = (2, channels, 5, 11)
    graph = Graph()
    x = graph.input("x", TensorType(DType.F32, shape))
    graph.output(emit(ops.Reshape(shape=shape), [x], loc=HERE))
    data = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    layouts = [LAYOUTS[source](shape)], [LAYOUTS[target](shape)]
    for isa in ISAS:
        compile_and_compare(graph, [data], *layouts, isa, 0)


@pytest.mark.parametrize(
    "dtype", ["f64", "f16", "bf16", "i8", "i16", "i64", "u8", "bool", "f8e4m3"]
)
@pytest.mark.parametrize("shape", [(3, 40, 37), (2, 64, 64)])
def test_transposes_of_every_element_size(dtype, shape):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2 if dtype == "bool" else 100, shape).astype(DType(dtype).numpy)
    graph = Graph()
    operand = graph.input("x", TensorType(DType(dtype), shape))
    graph.output(emit(ops.Transpose(perm=(0, 2, 1)), [operand], loc=HERE))
    kernel = lower(graph)
    assert not isinstance(kernel, Reject)
    for isa in ISAS:
        y = np.zeros((shape[0], shape[2], shape[1]), x.dtype)
        Compiled(kernel, isa)([x, y], nthreads=2)
        np.testing.assert_array_equal(y.view(np.uint8), x.transpose(0, 2, 1).copy().view(np.uint8))


def test_region_node_with_several_outputs_is_one_kernel():
    body = Graph()
    x, r = (body.input(n, TensorType(DType.F32, (6, 96))) for n in "xr")
    total = binary(BinaryKind.ADD, x, r)
    body.output(emit(ops.LayerNorm(axis=1, epsilon=1e-5), [total], loc=HERE))
    body.output(total)
    graph = Graph()
    operands = [graph.input(n, TensorType(DType.F32, (6, 96))) for n in "xr"]
    node = emit_node(ops.Region(body=body, kind="row"), operands, loc=HERE)
    kernel = kernel_for(node)
    assert not isinstance(kernel, Reject), kernel.reason
    xs = [np.random.default_rng(i).standard_normal((6, 96)).astype(np.float32) for i in range(2)]
    ys = [np.zeros((6, 96), np.float32) for _ in range(2)]
    Compiled(kernel)([*xs, *ys])
    for found, wanted in zip(ys, interpret(body, xs), strict=True):
        assert_close(found, wanted, 1e-5)


def test_equal_nodes_give_equal_sources():
    def kernel():
        graph = Graph()
        x = graph.input("x", TensorType(DType.F32, (4, 8)))
        return lower_one(graph, emit(ops.Softmax(axis=1), [x], loc=HERE))

    def lower_one(graph, y):
        graph.output(y)
        return lower(graph)

    assert kernel() == kernel()
    assert hash(kernel()) == hash(kernel())


@pytest.mark.parametrize("kind", [ReduceKind.MEAN, ReduceKind.L2, ReduceKind.MAX, ReduceKind.PROD])
@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2), (0, 2)])
def test_large_reductions_with_few_results_use_two_phases(kind, axes):
    shape = (4, 80, 400)
    graph = Graph()
    x = graph.input("x", TensorType(DType.F32, shape))
    y = emit(ops.Reduce(kind=kind, axes=axes, keepdims=False), [x], loc=HERE)
    graph.output(emit(ops.Activation(kind=ActivationKind.TANH), [y], loc=HERE))
    kernel = lower(graph)
    assert kernel.phases == (1 if axes == (0, 2) else 2)
    data = 1 + 0.01 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (wanted,) = interpret(graph, [data])
    results = []
    for nthreads in (1, 5):
        found = np.zeros(wanted.shape, np.float32)
        Compiled(kernel)([data, found], nthreads=nthreads)
        assert_close(found, wanted, 2e-4)
        results.append(found)
    np.testing.assert_array_equal(*results)
