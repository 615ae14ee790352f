"""Convolutions in one kernel: their meaning in the interpreter, and when they are fused."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.contractions import compare
from tests.backends.cuda.fused import Network, chain, check, offered
from tests.backends.cuda.simulation import simulated

from lamina.backends.cuda.pricing import Pricing
from lamina.backends.cuda.tactics.chained import TritonChained, TritonPaired
from lamina.backends.cuda.tactics.pooled import TritonPooled
from lamina.backends.cuda.tactics.stages import stages_of
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request
from lamina.ir.dims import sym
from lamina.ir.interpret import interpret
from lamina.ir.pattern import Reject
from lamina.ops import ActivationKind, Convolution, Epilogue, Region
from lamina.passes.fusion import KIND, FuseConvolutions, Price
from lamina.tactics.candidate import Placement
from lamina.tactics.form import Form, layout
from lamina.tactics.signature import signature

H200 = TARGETS[90]
CHAINS = {
    "middle and back": {"back": 20},
    "front and middle": {"back": 0, "front": 3},
    "three": {"back": 20, "front": 3},
    "with a shortcut": {"back": 20, "front": 3, "shortcut": 2},
    "shortcut alone": {"back": 0, "shortcut": 1},
}


@pytest.mark.parametrize("which", CHAINS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_chains(which, dtype):
    net, node = chain(1, 5, 24, 40, dtype=dtype, **CHAINS[which])
    found = offered(TritonChained(), node, H200)
    for candidate in (found[0], found[-1]):
        check(net, node, candidate)


def test_programs_that_go_on():
    """There are more tiles than programs, and parts of two tiles are in flight."""
    net, node = chain(1, 10, 16, 40, back=16, shortcut=1)
    found = offered(TritonChained(), node, replace(H200, sms=1))
    for candidate in [c for c in found if "stays" in c.tactic][:2]:
        check(net, node, candidate)


def test_whole_tiles_and_gaps():
    net, node = chain(2, 8, 16, 64, back=32, front=3)
    found = offered(TritonChained(), node, H200)
    check(net, node, next(c for c in found if "64x32x16" in c.tactic), gap=8)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize("stride", [1, 2])
def test_pairs(dtype, stride):
    net, node = chain(2, 5, 24, 40, back=0, dtype=dtype, shortcut=stride)
    found = offered(TritonPaired(), node, H200)
    for candidate in (found[0], found[-1]):
        check(net, node, candidate, gap=8)


def test_programs_that_share_the_depth_of_a_pair():
    net, node = chain(1, 4, 136, 32, back=0, shortcut=1)
    split = [c for c in offered(TritonPaired(), node, H200) if "split" in c.tactic]
    for candidate in (split[0], split[-1]):
        check(net, node, candidate)


def test_pair_of_windows():
    net = Network()
    x, z = net.image(1, 16, 6, 6), net.image(1, 32, 12, 12)
    other = net.convolution(z, 24, taps=3, stride=2, activation=None)
    node = net.region(net.convolution(x, 24, taps=3, residual=other))
    check(net, node, offered(TritonPaired(), node, H200)[0])


@pytest.mark.parametrize("shortcut", [0, 1])
def test_any_batch(shortcut):
    tactic = TritonPaired() if shortcut else TritonChained()
    back = 0 if shortcut else 16
    net, node = chain(3, 4, 16, 32, back=back, shortcut=shortcut, symbolic=sym("n"))
    target = replace(H200, env={"n": 2})
    found = offered(tactic, node, target)
    check(net, node, found[0], env={"n": 3})


STEMS = {
    "seven taps": ((2, 3, 16, 24), 24, (7, 2, None), ((3, 3), (2, 2), (1, 1), False)),
    "no padding": ((1, 3, 13, 20), 16, (3, 2, 0), ((3, 3), (2, 2), (0, 0), True)),
    "no overlap": ((1, 1, 12, 12), 16, (5, 1, None), ((2, 2), (2, 2), (0, 0), False)),
    "rows by one": ((1, 4, 9, 16), 20, (3, 1, None), ((2, 3), (1, 2), (0, 1), False)),
}


@pytest.mark.parametrize("which", STEMS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_maxima(which, dtype):
    shape, filters, (taps, stride, pad), pool = STEMS[which]
    net = Network(dtype)
    y = net.convolution(net.image(*shape), filters, taps, stride, pad=pad)
    node = net.region(net.maximum(y, *pool))
    found = offered(TritonPooled(), node, H200)
    for candidate in (found[0], found[-1]):
        check(net, node, candidate, gap=4)


def stem(activation=Epilogue(ActivationKind.RELU), width=24, dtype=np.float16, **maximum):
    net = Network(dtype)
    y = net.convolution(net.image(1, 3, 16, width), 16, 7, 2, activation=activation)
    how = {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1)} | maximum
    return net.region(net.maximum(y, **how))


@pytest.mark.parametrize(
    "node, reason",
    [
        (lambda: stem(Epilogue(ActivationKind.GELU)), "order of numbers"),
        (lambda: stem(stride=(1, 1)), "advance by two"),
        (lambda: stem(width=23), "multiples of a step"),
        (lambda: stem(dtype=np.float32), "f16 and bf16"),
    ],
)
def test_maxima_decline(node, reason):
    found = TritonPooled().candidates(node(), H200)
    assert isinstance(found, Reject) and reason in found.reason


def test_chains_decline():
    wide = chain(1, 4, 512, 16, back=16)[1]
    assert "too wide" in TritonChained().candidates(wide, H200).reason
    exact = chain(1, 4, 16, 16, back=16, dtype=np.float32)[1]
    assert "f16 and bf16" in TritonChained().candidates(exact, H200).reason
    assert "one sum" in TritonPaired().candidates(exact, H200).reason
    for tactic in (TritonChained(), TritonPaired(), TritonPooled()):
        assert tactic.candidates(exact.inputs[1].node, H200) is None


COMPILED = {
    "chain": (TritonChained, lambda: chain(8, 28, 64, 256, back=64, front=3, shortcut=1)[1]),
    "pair": (TritonPaired, lambda: chain(8, 28, 128, 256, back=0, shortcut=2)[1]),
    "maxima": (TritonPooled, lambda: stem(width=224)),
    "maxima of bf16": (TritonPooled, lambda: stem(width=224, dtype=ml_dtypes.bfloat16)),
}


DECLINED = {("chain", 75)} | {(w, a) for w in ("maxima", "maxima of bf16") for a in (75, 100)}


@pytest.mark.parametrize(
    "which, arch",
    [(w, a) for w in COMPILED for a in (75, 80, 90, 100, 120) if (w, a) not in DECLINED],
)
def test_compiles(which, arch):
    tactic, build = COMPILED[which]
    node = build()
    best = offered(tactic(), node, TARGETS[arch])[0]
    forms = [f or Form.PLAIN for f in best.reads]
    operands = tuple(layout(v.tensor, f) for v, f in zip(node.inputs, forms, strict=True))
    results = tuple(layout(v.tensor, f) for v, f in zip(node.outputs, best.writes, strict=True))
    (launch,) = best.draft(Placement(operands, results, "")).launches
    assert compile_request(launch.kernel, arch).shared_bytes <= TARGETS[arch].shared_bytes


@pytest.mark.parametrize("which, arch", sorted(DECLINED))
def test_devices_decline(which, arch):
    tactic, build = COMPILED[which]
    assert isinstance(tactic().candidates(build(), TARGETS[arch]), Reject)


def blocks():
    """Return two residual blocks behind a first layer, as a graph with an array for its input."""
    net = Network()
    x = net.maximum(net.convolution(net.image(1, 3, 16, 16), 16, 7, 2), (3, 3), (2, 2), (1, 1))
    for last in (False, True):
        rest = x if last else net.convolution(x, 32, activation=None)
        y = net.convolution(net.convolution(x, 16), 16, 3)
        x = net.convolution(y, 32, residual=rest)
    net.graph.output(x, "y")
    return net.graph, [net.arrays[v] for v in net.graph.inputs]


def bodies(graph):
    regions = [n.op.body for n in graph.nodes() if isinstance(n.op, Region)]
    return [[n.op.name for n in body.nodes()] for body in regions]


def test_fuses_what_gains_most():
    graph, given = blocks()
    before = interpret(graph, given)

    def ask(nodes, most):
        regions = [n.op.body if isinstance(n.op, Region) else None for n in nodes]
        return [Price(50 if b is None else 40 + len(list(b.nodes())), 1) for b in regions]

    assert FuseConvolutions(ask)(graph) == 3
    assert sorted(bodies(graph)) == [
        ["convolution", "convolution"],
        ["convolution", "convolution", "convolution", "convolution"],
        ["convolution", "pool"],
    ]
    after = interpret(graph, given)
    np.testing.assert_array_equal(after[0], before[0])


def test_fuses_nothing_that_is_slower_or_unknown():
    for fused in (None, Price(1000, 1), Price(None, 1000)):
        graph, _ = blocks()

        def ask(nodes, most, fused=fused):
            return [fused if isinstance(n.op, Region) else Price(50, 50) for n in nodes]

        assert FuseConvolutions(ask)(graph) == 0
        assert bodies(graph) == []


@pytest.mark.parametrize("saved, count", [(2, 0), (4, 3)])
def test_a_kernel_less_must_save_more_than_overlaps(saved, count):
    graph, _ = blocks()

    def ask(nodes, most):
        sizes = [len(list(n.op.body.nodes())) if isinstance(n.op, Region) else 1 for n in nodes]
        return [Price(5.0 * n - saved * (n - 1), 1) for n in sizes]

    assert FuseConvolutions(ask)(graph) == count


def regions_first(compiler, nodes, most):
    return [Price(None, 1 if isinstance(n.op, Region) else 90) for n in nodes]


def test_engine(monkeypatch):
    monkeypatch.setattr(Pricing, "prices", regions_first)
    graph, given = blocks()
    wanted = interpret(graph, given)[0]
    engine = simulated(graph, level=1)
    tactics = [step.tactic.split()[0] for step in engine.plan.sections[0].program.steps]
    assert {"triton-conv-chain", "gluon-stem"} <= set(tactics)
    compare(engine(*given), wanted, "the engine")
    separate = simulated(graph, level=1, without=(FuseConvolutions().name,))
    assert len(separate.plan.sections[0].program.steps) > len(tactics)


def test_engine_by_estimates():
    graph, given = blocks()
    wanted = interpret(graph, given)[0]
    compare(simulated(graph, level=1)(*given), wanted, "the engine")


def test_signature_of_a_region_has_its_body():
    one, two = chain(1, 4, 16, 16, back=16)[1], chain(1, 4, 16, 16, back=16)[1]
    assert signature(one.op) == signature(two.op)
    other = chain(1, 4, 16, 16, back=16, front=3)[1]
    assert signature(other.op) != signature(one.op)
    assert signature(one.op).startswith(f"region {KIND} {{convolution(%0, ")
    plain = Convolution(strides=(1,), dilations=(1,), pads_begin=(0,), pads_end=(0,))
    assert signature(plain) == str(plain)
    assert stages_of(one.inputs[1].node) is None
