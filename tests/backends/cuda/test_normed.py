"""Products with the norms around them: kernels in the interpreter, and when they are fused."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.contractions import HERE, compare
from tests.backends.cuda.interpreter import run
from tests.backends.cuda.simulation import simulated
from tests.samples.sample import normal

from lamina.backends.cuda.pricing import Pricing
from lamina.backends.cuda.tactics import uneven
from lamina.backends.cuda.tactics.normed import TritonNormed
from lamina.backends.cuda.target import TARGETS
from lamina.ir.dims import evaluate, sym
from lamina.ir.graph import Graph, emit
from lamina.ir.interpret import interpret
from lamina.ir.types import DType, TensorType
from lamina.ops import ActivationKind, Binary, Cast, Const, Epilogue, LayerNorm, Matmul, Region
from lamina.ops.kinds import BinaryKind
from lamina.passes.fusion import Price
from lamina.passes.regions import FuseRegions
from lamina.passes.row_norms import KIND, FuseRowNorms
from lamina.tactics.candidate import Placement
from lamina.tactics.form import Form, layout

H200 = TARGETS[90]
GELU = Epilogue(ActivationKind.GELU)


class Network:
    """A graph of norms and products with random weights; ``cast`` norms are computed in f32."""

    def __init__(self, dtype=np.float16, cast=False):
        self.graph, self.dtype, self.cast, self.count = Graph(), np.dtype(dtype), cast, 0

    def rows(self, *shape):
        name = f"x{len(self.graph.inputs)}"
        return self.graph.input(name, TensorType(DType.of(self.dtype), shape))

    def constant(self, *shape, scale=1.0, shift=0.0, dtype=None):
        self.count += 1
        array = (normal(*shape, seed=self.count) * scale + shift).astype(dtype or self.dtype)
        return emit(Const.of(array), (), loc=HERE)

    def norm(self, x, parts=2):
        depth, dtype = int(x.tensor.shape[-1]), np.float32 if self.cast else self.dtype
        scale = self.constant(depth, scale=0.3, shift=1.0, dtype=dtype)
        affine = [scale, self.constant(depth, scale=0.3, dtype=dtype)][:parts]
        op = LayerNorm(axis=x.tensor.rank - 1, epsilon=1e-5)
        if not self.cast:
            return emit(op, [x, *affine], loc=HERE)
        wide = emit(op, [emit(Cast(dtype=DType.F32), [x], loc=HERE), *affine], loc=HERE)
        return emit(Cast(dtype=DType.of(self.dtype)), [wide], loc=HERE)

    def product(self, x, columns, bias=True, residual=None, **how):
        depth = int(x.tensor.shape[-1])
        shape = (columns, depth) if how.get("transpose_b") else (depth, columns)
        operands = [x, self.constant(*shape, scale=depth**-0.5)]
        operands += [self.constant(columns)] if bias else []
        operands += [] if residual is None else [residual]
        return emit(Matmul(**how), operands, loc=HERE)

    def add(self, a, b):
        return emit(Binary(kind=BinaryKind.ADD), [a, b], loc=HERE)


def pre_norm(shape=(2, 35, 64), wide=96, **how):
    """Two blocks that add to rows what products make of their norm."""
    net = Network(**how)
    x = net.product(net.rows(*shape), shape[-1], residual=net.rows(*shape))
    for _ in range(2):
        h = net.product(net.norm(x), wide, activation=GELU, transpose_b=True)
        x = net.product(h, shape[-1], residual=x)
    net.graph.output(net.norm(x), "y")
    return net.graph


def post_norm(shape=(2, 35, 64), wide=96, **how):
    """Two blocks whose sum is normalized."""
    net = Network(**how)
    x = net.norm(net.product(net.rows(*shape), shape[-1], residual=None, bias=False))
    for _ in range(2):
        h = net.product(x, wide, activation=GELU, bias=False)
        x = net.norm(net.add(net.product(h, shape[-1]), x))
    net.graph.output(x, "y")
    return net.graph


def normed(graph):
    return [n for n in graph.nodes() if isinstance(n.op, Region) and n.op.kind == KIND]


def offered(node, target=H200):
    found = TritonNormed().candidates(node, target)
    assert isinstance(found, list), found
    assert len({c.tactic for c in found}) == len(found), "names must be unique"
    return sorted(found, key=lambda c: (c.estimate_microseconds, c.tactic))


def random(graph, env=None):
    """Return random operands of a graph of f16 numbers."""
    shapes = {v: [evaluate(d, env or {}) for d in v.tensor.shape] for v in graph.inputs}
    return {v: normal(*s, seed=i, dtype=np.float16) for i, (v, s) in enumerate(shapes.items())}


def operands_of(node, values):
    return [values[v] if v in values else v.op.weight.contents for v in node.inputs]


def run_all(node, candidate, values, env=None):
    """Return the results of a candidate."""
    operands = tuple(layout(v.tensor, Form.PLAIN) for v in node.inputs)
    results = tuple(layout(v.tensor, Form.PLAIN) for v in node.outputs)
    shapes = [[evaluate(d, env or {}) for d in v.tensor.shape] for v in node.outputs]
    outs = [np.full(s, 77, v.tensor.dtype.numpy) for s, v in zip(shapes, node.outputs, strict=True)]
    draft = candidate.draft(Placement(operands, results, ""))
    run(draft, operands_of(node, values), outs, env)
    return outs


def exactly(graph, given):
    """Return the result of a graph of 16-bit numbers, computed in f64 from its first product on."""
    env = {v: a.astype(np.float64) for v, a in zip(graph.inputs, given, strict=True)}
    for node in graph.nodes():
        if isinstance(node.op, Const):
            env[node.output] = node.op.weight.contents.astype(np.float64)
        else:
            env[node.output] = node.op.reference(*(env[v] for v in node.inputs))
    return env[graph.outputs[0]]


def check(node, candidate, values, env=None):
    """Compare a candidate with the region's meaning, operands by value; returns that."""
    outs = run_all(node, candidate, values, env)
    wanted = node.op.reference(*operands_of(node, values))
    for got, expected in zip(outs, wanted, strict=True):
        # Sums are those of rounded numbers, of which some are rounded to the other side.
        compare(got.astype(wanted[0].dtype), expected.astype(wanted[0].dtype), candidate.tactic)
    return wanted


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("make", [pre_norm, post_norm])
def test_each_product_computes_what_its_region_means(make, dtype, cast):
    graph = make(dtype=dtype, cast=cast)
    FuseRegions()(graph)
    assert FuseRowNorms()(graph) in (2, 4)
    values = {v: (normal(*v.tensor.shape, seed=9) * 2 + 3).astype(dtype) for v in graph.inputs}
    regions = normed(graph)
    assert len(regions) in (4, 5, 6)
    for i, node in enumerate(regions):
        found = offered(node)
        results = check(node, found[i % len(found)], values)
        values |= dict(zip(node.outputs, results, strict=True))


@pytest.mark.parametrize("parts", [("64x96x",), ("split2",), ("64x96x", "split2"), ("16x32x",)])
def test_tiles(parts):
    """Depth 512 may be split, 288 columns are three tiles of 96."""
    net = Network()
    x = net.product(net.rows(70, 512), 288, residual=net.rows(70, 288))
    net.graph.output(net.product(net.norm(x), 288), "y")
    net.graph.output(net.product(net.rows(70, 512), 288, residual=net.norm(x)), "z")
    assert FuseRowNorms()(net.graph) == 2
    values = {
        v: normal(*v.tensor.shape, seed=i, dtype=np.float16) for i, v in enumerate(net.graph.inputs)
    }
    for node in normed(net.graph):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(uneven, "_WORTH_TRYING", 9.0)
            found = [c for c in offered(node) if all(f" {p}" in f"{c.tactic} " for p in parts)]
        if not found:
            assert "split2" in parts and node.inputs[0].tensor.shape[-1] == 288
            continue
        results = check(node, found[0], values)
        values |= dict(zip(node.outputs, results, strict=True))


def test_rows_far_from_zero():
    """The mean of rows is a hundred times their deviation: little of it cancels in f32."""
    net = Network()
    x = net.product(net.rows(32, 64), 256, residual=net.rows(32, 256))
    net.graph.output(net.product(net.norm(x), 64), "y")
    given = [normal(32, 64, dtype=np.float16), (normal(32, 256, seed=5) + 100).astype(np.float16)]
    before = interpret(net.graph, given)[0].astype(np.float64)
    exact = exactly(net.graph, given)
    assert FuseRowNorms()(net.graph) == 1
    values = dict(zip(net.graph.inputs, given, strict=True))
    for node in normed(net.graph):
        got = run_all(node, offered(node)[0], values)
        values |= dict(zip(node.outputs, got, strict=True))
    error = np.abs(got[0].astype(np.float64) - exact).max()
    assert error <= 2 * np.abs(before - exact).max() + 2e-3 * np.abs(exact).max()


def test_number_of_rows_that_shapes_tell():
    n = sym("n")
    net = Network()
    x = net.product(net.rows(n, 64), 96, residual=net.rows(n, 96))
    net.graph.output(net.product(net.norm(x), 64), "y")
    assert FuseRowNorms()(net.graph) == 1
    target = replace(H200, env={"n": 40})
    values = {
        v: normal(37, v.tensor.shape[1], seed=i, dtype=np.float16)
        for i, v in enumerate(net.graph.inputs)
    }
    for node in normed(net.graph):
        results = check(node, offered(node, target)[0], values, {"n": 37})
        values |= dict(zip(node.outputs, results, strict=True))


def test_what_is_left_alone():
    def count(make):
        net = Network()
        make(net)
        FuseRegions()(net.graph)
        return FuseRowNorms()(net.graph)

    def no_product(net):
        net.graph.output(net.product(net.norm(net.rows(32, 64)), 64), "y")

    def also_a_result(net):
        n = net.norm(net.product(net.rows(32, 64), 64))
        net.graph.output(net.product(n, 64), "y")
        net.graph.output(n, "n")

    def few_rows(net):
        net.graph.output(net.product(net.norm(net.product(net.rows(2, 64), 64)), 64), "y")

    def odd_columns(net):
        net.graph.output(net.product(net.norm(net.product(net.rows(32, 64), 72)), 64), "y")

    def activated(net):
        net.graph.output(
            net.product(net.norm(net.product(net.rows(32, 64), 64, activation=GELU)), 64), "y"
        )

    assert [count(f) for f in (no_product, also_a_result, few_rows, odd_columns, activated)] == [
        0
    ] * 5


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("fused, count", [(10.0, 2), (12.4, 0), (None, 0)])
def test_all_norms_are_taken_in_or_none(fused, count, measured):
    """Four products of 10 us and two norms of 5 are there before."""

    def ask(nodes, most):
        prices = []
        for n in nodes:
            us = {Matmul: 10.0, LayerNorm: 5.0}.get(type(n.op), fused)
            prices.append(us and Price(us if measured else None, us))
        return prices

    graph = pre_norm()
    assert FuseRowNorms(ask)(graph) == count
    assert bool(normed(graph)) == bool(count)


def normed_first(compiler, nodes, most):
    kinds = [n.op.kind if isinstance(n.op, Region) else "" for n in nodes]
    times = {KIND: 1.0, "": 90.0, "row": 90.0}
    return [Price(None, times[k]) if k in times else None for k in kinds]


@pytest.mark.parametrize("make", [pre_norm, post_norm])
def test_engine(monkeypatch, make):
    monkeypatch.setattr(Pricing, "prices", normed_first)
    graph = make()
    given = [*random(graph).values()]
    wanted = interpret(graph, given)[0]
    engine = simulated(graph, level=1)
    tactics = [step.tactic.split()[0] for step in engine.plan.sections[0].program.steps]
    assert tactics.count(TritonNormed.name) >= 4
    compare(engine(*given), wanted, "the engine")
    separate = simulated(graph, level=1, without=(FuseRowNorms().name,))
    assert len(separate.plan.sections[0].program.steps) > len(tactics)


def test_refit(monkeypatch):
    """What is packed of several weights is made again when one of them changes."""
    monkeypatch.setattr(Pricing, "prices", normed_first)

    def network(seed):
        shapes = {"w": (64, 96), "scale": (96,), "shift": (96,), "v": (96, 32), "bias": (32,)}
        rng = np.random.default_rng(seed)
        given = {n: rng.normal(0, 0.3, s).astype(np.float16) for n, s in shapes.items()}
        return given, two_products(given)

    old, graph = network(1)
    engine = simulated(graph, level=1)
    tactics = [step.tactic.split()[0] for step in engine.plan.sections[0].program.steps]
    assert tactics == [TritonNormed.name] * 2
    new, other = network(2)
    x = normal(40, 64, dtype=np.float16)
    engine.refit({name: new[name] for name in ("scale", "v")})
    mixed = two_products(old | {name: new[name] for name in ("scale", "v")})
    np.testing.assert_array_equal(engine(x), simulated(mixed, level=1)(x))
    engine.refit(new)
    np.testing.assert_array_equal(engine(x), simulated(other, level=1)(x))


def two_products(given):
    """Return a product, a norm and a product, of named weights."""
    graph = Graph()
    c = {n: emit(Const.of(w, n), (), loc=HERE) for n, w in given.items()}
    x = emit(Matmul(), [graph.input("x", TensorType(DType.F16, (40, 64))), c["w"]], loc=HERE)
    n = emit(LayerNorm(axis=1, epsilon=1e-5), [x, c["scale"], c["shift"]], loc=HERE)
    graph.output(emit(Matmul(), [n, c["v"], c["bias"]], loc=HERE), "y")
    return graph
