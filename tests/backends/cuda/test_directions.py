"""Kernels that begin with the last tile: when they should, and that they compute the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.backends.cuda.contractions import compare, node_of, programs, run_candidate
from tests.backends.cuda.fused import chain, check, offered
from tests.backends.cuda.test_convolution import op_of, operands
from tests.samples.sample import normal

from lamina.backends.cuda.directions import Directions
from lamina.backends.cuda.request import directed, has_direction
from lamina.backends.cuda.tactics import specialized_boxes
from lamina.backends.cuda.tactics.boxed import TritonMatmulBoxed
from lamina.backends.cuda.tactics.chained import TritonChained, TritonPaired
from lamina.backends.cuda.tactics.convolution import TritonConvolution, TritonConvolutionBoxes
from lamina.backends.cuda.tactics.matmul import TritonMatmulBoxes
from lamina.backends.cuda.tactics.rolling import RollingConvolution
from lamina.backends.cuda.tactics.specialized_boxes import SpecializedConvolution
from lamina.backends.cuda.target import TARGETS
from lamina.ir.graph import Graph, emit_node
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType
from lamina.ops import Concat, Convolution, Matmul, Reshape, Unary, UnaryKind
from lamina.tactics.candidate import Placement
from lamina.tactics.choices import dense_layouts

H200 = replace(TARGETS[90], sms=3)
HERE = Loc("test")
MIB = 1 << 20


def turned(candidate):
    def draft(at):
        draft = candidate.draft(at)
        assert has_direction(draft)
        return directed(draft, backwards=True)

    return replace(candidate, draft=draft)


@pytest.mark.parametrize(
    "tactic, filters",
    [(TritonConvolutionBoxes, 136), (RollingConvolution, 64), (SpecializedConvolution, 136)],
)
def test_convolutions(tactic, filters, monkeypatch):
    monkeypatch.setattr(specialized_boxes, "FEWEST_TILES", 1)
    op = op_of(Convolution)
    given = operands(op, (3, 64, 4, 12), (filters, 64, 3, 3), residual=True)
    node = node_of(op, given)
    candidate = min(tactic().candidates(node, H200), key=lambda c: programs(node, c))
    compare(run_candidate(node, turned(candidate), given), op.reference(*given), candidate.tactic)


@pytest.mark.parametrize("tactic", [TritonMatmulBoxes, TritonMatmulBoxed])
def test_products(tactic):
    given = [normal(300, 64, dtype=np.float16), normal(64, 136, seed=1, dtype=np.float16)]
    node = node_of(Matmul(), given)
    candidate = min(tactic().candidates(node, H200), key=lambda c: programs(node, c))
    compare(run_candidate(node, turned(candidate), given), given[0] @ given[1], candidate.tactic)


@pytest.mark.parametrize(
    "tactic, pick, options",
    [
        (TritonChained, "", {"back": 20, "front": 3}),
        (TritonChained, "stays", {"back": 20}),
        (TritonPaired, "", {"back": 0, "shortcut": 1}),
    ],
)
def test_regions(tactic, pick, options):
    net, node = chain(1, 9, 16, 40, **options)
    candidate = next(c for c in offered(tactic(), node, H200) if pick in c.tactic)
    check(net, node, turned(candidate))


class Row:
    """Nodes on values of so many MiB, of which each reads those that are named."""

    def __init__(self):
        self.directions = Directions(H200)
        self.graph = Graph()

    def image(self, mib):
        type = TensorType(DType.F16, (mib * MIB // 2,))
        return self.graph.input(f"x{len(self.graph.inputs)}", type)

    def step(self, *operands, can=True):
        """Add the step that ``operands`` are read by; return whether it begins with the end."""
        op = Unary(kind=UnaryKind.NEG) if len(operands) == 1 else Concat(axis=0)
        node = emit_node(op, operands, loc=HERE)
        backwards = can and self.directions.backwards(node)
        self.directions.went(node, backwards=backwards)
        return node.output, backwards


def test_steps_go_to_and_fro():
    row = Row()
    x, *went = row.step(row.image(100))
    for _ in range(3):
        x, backwards = row.step(x)
        went.append(backwards)
    assert went == [False, True, False, True]


def test_a_step_that_cannot_choose_is_followed_by_one_that_does():
    row = Row()
    x, _ = row.step(row.image(100))
    x, backwards = row.step(x, can=False)
    assert not backwards
    assert row.step(x)[1]


def test_what_fills_more_of_the_cache_decides():
    row = Row()
    large, _ = row.step(row.image(40))
    small, backwards = row.step(row.image(8))
    small, turned_back = row.step(small)
    assert not backwards and turned_back
    assert row.step(large, small)[1]


def test_what_the_cache_no_longer_holds_does_not_count():
    row = Row()
    long_ago, _ = row.step(row.image(40))
    x, _ = row.step(row.image(100))
    assert not row.step(long_ago)[1]
    assert row.step(x)[1] is False  # the step before took its place


def test_a_view_is_what_it_is_a_view_of():
    row = Row()
    x, _ = row.step(row.image(100))
    view = emit_node(Reshape(shape=(50 * MIB, 1)), [x], loc=HERE).output
    node = emit_node(Unary(kind=UnaryKind.NEG), [view], loc=HERE)
    assert row.directions.backwards(node)


def test_what_has_one_tile_for_each_program_has_no_choice():
    op = op_of(Convolution)
    node = node_of(op, operands(op, (1, 16, 6, 5), (24, 16, 3, 3)))
    candidate = TritonConvolution().candidates(node, H200)[0]
    assert not has_direction(candidate.draft(Placement(*dense_layouts(node, candidate), "")))
