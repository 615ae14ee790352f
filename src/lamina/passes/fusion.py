"""Convolutions that a device may run as one kernel, where that is faster than one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product as cartesian
from math import inf
from typing import ClassVar, Final

from lamina import ops
from lamina.ir.graph import Graph, Node, Value, emit_node
from lamina.ir.loc import Loc
from lamina.ir.rewrite import GraphPass
from lamina.ops.kinds import PoolKind
from lamina.passes.constants import is_constant
from lamina.passes.epilogue import FuseActivation, FuseResidual

KIND: Final = "convolutions"
"""The kind of such regions."""

_RESIDUAL: Final = 3


@dataclass(frozen=True)
class Price:
    """Microseconds of the best kernel of a node: as measured, if it was, and as estimated."""

    measured: float | None
    estimated: float


Ask = Callable[[Sequence[Node], Sequence[float]], Sequence[Price | None]]
"""Gives the price of each node; None where no kernel takes fewer than so many microseconds, as far
as estimates tell."""


def cheaper_together(nodes: Sequence[Node], most: Sequence[float]) -> list[Price | None]:
    """Price every node alike, whatever it computes."""
    return [Price(None, 100.0) for _ in nodes]


@dataclass(frozen=True)
class _Plan:
    """Operators that may run as one, in order of evaluation, and what others read of them."""

    nodes: tuple[Node, ...]
    results: tuple[Value, ...]


class FuseConvolutions(GraphPass):
    """Convolutions that feed each other, or one sum, become a region where that saves time.

    ``ask`` prices nodes, those of the graph and regions made for trial.  A region holds up to four
    operators: a convolution in ``front``, depthwise or in one group, one whose sum the next takes
    in, a pointwise one, and a pointwise one behind it; or a convolution and the maximum over
    windows of its result.  What gains most is fused first.

    Before::

        graph(%x: f16[1,8,5,5], %r: f16[1,16,5,5]) {
          %v = const() type=f16[16,8,1,1] seed=1
          %b = const() type=f16[16] seed=2
          %w = const() type=f16[8,16,1,1] seed=3
          %y = convolution(%x, %v, %b, %r) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          %z = convolution(%y, %w) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          return %y, %z
        }

    After::

        graph @1(%i0: f16[1,8,5,5], %i1: f16[16,8,1,1], %i2: f16[16], %i3: f16[1,16,5,5], %i4: f16[8,16,1,1]) {
          %y = convolution(%i0, %i1, %i2, %i3) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          %z = convolution(%y, %i4) strides=(1,1) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
          return %y, %z
        }
        graph(%x: f16[1,8,5,5], %r: f16[1,16,5,5]) {
          %v = const() type=f16[16,8,1,1] seed=1
          %b = const() type=f16[16] seed=2
          %w = const() type=f16[8,16,1,1] seed=3
          %y, %z = region(%x, %v, %b, %r, %w) body=@1 kind="convolutions"
          return %y, %z
        }
    """  # noqa: E501

    after = (FuseActivation, FuseResidual)
    NESTED = False
    LEAST_GAIN: ClassVar[float] = 0.02
    """Share of the separate time that a fused kernel must save, and"""
    LEAST_ESTIMATED_GAIN: ClassVar[float] = 0.15
    """where some of the times are estimates."""
    OVERLAPPED: ClassVar[float] = 2.5
    """Microseconds of every kernel less that do not count: in a network the start of a kernel
    overlaps the end of the one ahead, more than times of lone kernels show.  Regions that gained 8
    to 10 in all, one by one, made ResNet-50 at batch 1 slower by 4 to 10 on an H200; at batch 8,
    where each gains more than this, gains added up."""
    WORTH_TIMING: ClassVar[float] = 1.2
    """How many times the separate time a region may be estimated to take, to be timed."""

    def __init__(self, ask: Ask = cheaper_together) -> None:
        super().__init__()
        self.ask = ask

    def run(self, graph: Graph) -> int:
        """Fuse; return the number of regions."""
        plans = _all_plans(graph)
        nodes = list(dict.fromkeys(n for p in plans for n in p.nodes))
        alone = dict(zip(nodes, self.ask(nodes, [inf] * len(nodes)), strict=True))
        trials = [region_of(p.nodes, p.results, attached=False) for p in plans]
        parts = [[alone[n] for n in p.nodes] for p in plans]
        most = [self.most([_known(p) for p in some if p is not None]) for some in parts]
        gains = []
        for i, (separate, fused) in enumerate(zip(parts, self.ask(trials, most), strict=True)):
            gain = self._gain(separate, fused)
            if gain > 0:
                gains.append((-gain, i))
        taken: set[Node] = set()
        count = 0
        for _, i in sorted(gains):
            if taken.isdisjoint(plans[i].nodes):
                taken.update(plans[i].nodes)
                _apply(graph, plans[i])
                count += 1
        return count

    def most(self, microseconds: Sequence[float]) -> float:
        """Return what a region may be estimated at, to be timed, by the times of its parts."""
        uncounted = self.OVERLAPPED * (len(microseconds) - 1)
        return self.WORTH_TIMING * (sum(microseconds) - uncounted)

    def _gain(self, parts: Sequence[Price | None], fused: Price | None) -> float:
        """Return the microseconds that a fused kernel saves; 0 where they are too few."""
        known = [p for p in parts if p is not None]
        if fused is None or len(known) < len(parts):
            return 0.0
        measured = [p.measured for p in (*known, fused) if p.measured is not None]
        if len(measured) == len(known) + 1:
            *alone, together = measured
            least = self.LEAST_GAIN
        else:
            alone, together = [p.estimated for p in known], fused.estimated
            least = self.LEAST_ESTIMATED_GAIN
        gain = sum(alone) - together - self.OVERLAPPED * (len(alone) - 1)
        return gain if gain > least * sum(alone) else 0.0


def _known(p: Price) -> float:
    return p.estimated if p.measured is None else p.measured


@dataclass(frozen=True)
class Trial:
    """Nodes that may become one region, and a region made for trial."""

    parts: tuple[Node, ...]
    fused: Node


def trials(graph: Graph) -> list[Trial]:
    """Return what ``FuseConvolutions`` will ask for the prices of."""
    return [
        Trial(tuple(p.nodes), region_of(p.nodes, p.results, attached=False))
        for p in _all_plans(graph)
    ]


def _all_plans(graph: Graph) -> list[_Plan]:
    return [p for node in graph.nodes() for p in _plans(graph, node)]


def region_of(nodes: Sequence[Node], results: Sequence[Value], *, attached: bool) -> Node:
    """Return a region that computes ``results`` of ``nodes``, which are in order of evaluation.

    Unless ``attached`` its operands are values of their own, so that nothing in the graph changes.
    """
    body = Graph()
    env: dict[Value, Value] = {}
    operands: list[Value] = []
    for node in nodes:
        for v in node.inputs:
            if v not in env:
                env[v] = body.input(f"i{len(operands)}", v.type, v.loc)
                operands.append(v)
        made = emit_node(node.op, [env[v] for v in node.inputs], loc=node.loc)
        for old, new in zip(node.outputs, made.outputs, strict=True):
            new.name = old.name
            env[old] = new
    for i, v in enumerate(results):
        body.output(env[v], v.name or f"o{i}")
    loc = Loc.fused(FuseConvolutions.__name__, *(n.loc for n in nodes))
    given = operands if attached else [_copy(v) for v in operands]
    region = emit_node(ops.Region(body=body, kind=KIND), given, loc=loc)
    for old, new in zip(results, region.outputs, strict=True):
        new.name = old.name
    return region


def is_pointwise(node: Node) -> bool:
    """Whether a node is a convolution that needs the pixel at its own place only."""
    op = node.op
    if not isinstance(op, ops.Convolution) or not _has_constant_filters(node):
        return False
    sizes = node.inputs[1].tensor.shape[2:]
    ones = (*sizes, *op.strides)
    return all(n == 1 for n in ones) and not any((*op.pads_begin, *op.pads_end))


def _copy(v: Value) -> Value:
    if v.node is not None and is_constant(v):
        return emit_node(v.node.op, (), loc=v.loc).output
    return Value(v.type, v.name, v.loc)


def _apply(graph: Graph, plan: _Plan) -> None:
    region = region_of(plan.nodes, plan.results, attached=True)
    for old, new in zip(plan.results, region.outputs, strict=True):
        graph.replace(old, new)


def _plans(graph: Graph, node: Node) -> Iterator[_Plan]:
    if isinstance(node.op, ops.Pool) and node.op.kind is PoolKind.MAX:
        source = _only_here(graph, node.inputs[0])
        if source is not None:
            yield _Plan((source, node), (node.output,))
        return
    if not _has_constant_filters(node):
        return
    for front, other, back in cartesian(*_neighbours(graph, node)):
        if (front or back) and not is_pointwise(node):
            continue
        before = [n for n in (front, other) if n is not None]
        after = [] if back is None else [back]
        if before or after:
            stored = graph.uses(node.output) > len(after)
            kept = [*([node] if stored else []), *after]
            yield _Plan((*before, node, *after), tuple(n.output for n in kept))


def _neighbours(graph: Graph, node: Node) -> tuple[list[Node | None], ...]:
    """Return what may run in front of a convolution, add to its sum and follow it, or None."""
    front = _only_here(graph, node.inputs[0]) or _depthwise_here(graph, node.inputs[0])
    other = _only_here(graph, node.inputs[_RESIDUAL]) if len(node.inputs) > _RESIDUAL else None
    if other is not None and isinstance(other.op, ops.Convolution) and other.op.activation:
        other = None
    backs = [
        user
        for user in node.output.users
        if user.inputs[0] is node.output and is_pointwise(user) and len(user.inputs) <= _RESIDUAL
    ]
    return (
        [None, *([] if front is None or front is other else [front])],
        [None, *([] if other is None else [other])],
        [None, *backs],
    )


def _only_here(graph: Graph, v: Value) -> Node | None:
    """Return the convolution that makes a value which is read once, and adds nothing to it."""
    node = v.node
    if node is None or not _has_constant_filters(node) or len(node.inputs) > _RESIDUAL:
        return None
    return node if graph.uses(v) == 1 else None


def _depthwise_here(graph: Graph, v: Value) -> Node | None:
    """Return the convolution of every channel by itself that makes a value, if read once."""
    node = v.node
    if node is None or not isinstance(node.op, ops.Convolution) or len(node.inputs) > _RESIDUAL:
        return None
    filters, channels = node.inputs[1].tensor.shape[:2]
    alone = channels == 1 and filters == node.op.groups and is_constant(node.inputs[1])
    return node if alone and graph.uses(v) == 1 else None


def _has_constant_filters(node: Node) -> bool:
    """Whether a node is a convolution with constant filters in one group."""
    op = node.op
    return isinstance(op, ops.Convolution) and op.groups == 1 and is_constant(node.inputs[1])
