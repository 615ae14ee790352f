"""Layer norms between matrix products that the products may take in, where that is faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import ClassVar, Final

import numpy as np

from lamina import ops
from lamina.ir.dims import is_static
from lamina.ir.dims import product as product_of
from lamina.ir.graph import Graph, Node, Value, emit, emit_node
from lamina.ir.loc import Loc
from lamina.ir.rewrite import GraphPass
from lamina.ir.types import DType, TensorType
from lamina.ops.kinds import BinaryKind, ReduceKind
from lamina.passes.constants import is_constant
from lamina.passes.contractions import channels, has_constant_weight, is_open
from lamina.passes.epilogue import FuseActivation, FuseResidual
from lamina.passes.fusion import Ask, Price, cheaper_together
from lamina.passes.regions import FuseRegions

KIND: Final = "normed"
"""The kind of such regions."""

_HALVES: Final = (DType.F16, DType.BF16)
_SUMMED: Final = (32, 64, 128)
_MOST_GROUPS: Final = 32
_RESIDUAL: Final = 3
_FEWEST_ROWS: Final = 16
"""Fewer are multiplied by kernels without matrix units."""


@dataclass(frozen=True)
class _Norm:
    """A layer norm of rows that ``product`` makes, alone or with ``rest`` added to them.

    ``total`` is that sum where something else reads it, ``casts`` are what is done to the norm's
    operand and its result, where it is computed in another type.
    """

    node: Node
    op: ops.LayerNorm
    affine: tuple[Value, ...]
    casts: tuple[ops.Cast, ...]
    product: Node
    rest: Value | None
    total: Value | None

    @property
    def result(self) -> Value:
        """The normalized rows."""
        return self.node.outputs[-1]

    @property
    def rows(self) -> TensorType:
        """The type of the rows."""
        return self.product.output.tensor


@dataclass
class _Role:
    """What a product does besides: which norms of its rows and residual, and what it adds."""

    rows: _Norm | None = None
    residual: _Norm | None = None
    rest: Value | None = None
    summed: bool = False


@dataclass(frozen=True)
class _Made:
    """What stands for a product: its result, and the sums of the groups of its rows."""

    y: Value
    sums: tuple[Value, ...] = ()


Take = Callable[[Value], Value]


class FuseRowNorms(GraphPass):
    """Products take in the layer norms between them where that saves time.

    A product whose rows are normalized afterwards also sums groups of its columns, and their
    squares.  With these, the products behind normalize what they read.  The first operands of such
    a region are read by its body; behind them come the sums of the rows it normalizes, and of the
    residual it normalizes.  ``ask`` prices nodes, those of the graph and such made for trial: all
    norms of a graph are taken in or none.

    Before::

        graph(%x: f16[16,8], %r: f16[16,32]) {
          %v = const() type=f16[8,32] seed=1
          %b = const() type=f16[32] seed=2
          %s = const() type=f16[32] seed=3
          %w = const() type=f16[32,16] seed=4
          %a = matmul(%x, %v, %b, %r)
          %n = layer_norm(%a, %s) axis=1 epsilon=1e-05
          %y = matmul(%n, %w)
          return %a, %y
        }

    After::

        graph @1(%i0: f16[16,8], %i1: f16[8,32], %i2: f16[32], %i3: f16[16,32]) {
          %0 = matmul(%i0, %i1, %i2, %i3)
          %1 = cast(%0) dtype=f32
          %2 = reshape(%1) shape=(16,1,32)
          %3 = reduce(%2) kind=sum axes=(2,) keepdims=false
          %4 = reduce(%2) kind=sum_square axes=(2,) keepdims=false
          return %0, %3, %4
        }
        graph @2(%i0: f16[16,32], %i1: f16[32], %i2: f16[32,16], %i3: f32[16,1], %i4: f32[16,1]) {
          %0 = layer_norm(%i0, %i1) axis=1 epsilon=1e-05
          %1 = matmul(%0, %i2)
          return %1
        }
        graph(%x: f16[16,8], %r: f16[16,32]) {
          %v = const() type=f16[8,32] seed=1
          %b = const() type=f16[32] seed=2
          %a, %p, %q = region(%x, %v, %b, %r) body=@1 kind="normed"
          %s = const() type=f16[32] seed=3
          %w = const() type=f16[32,16] seed=4
          %y = region(%a, %s, %w, %p, %q) body=@2 kind="normed"
          return %a, %y
        }
    """

    after = (FuseActivation, FuseResidual, FuseRegions)
    NESTED = False
    LEAST_GAIN: ClassVar[float] = 0.01
    """Share of the separate time that must be saved.  Networks gain more than times of lone kernels
    tell, which hide that each waits for the one ahead: ViT-B/16 at batch 1 on an H200 goes from 347
    to 310 microseconds, where kernels alone would save 25."""
    LEAST_SHARE: ClassVar[float] = 0.06
    """Of the separate time, what norms must take for anything to be tried."""
    WORTH_TIMING: ClassVar[float] = 1.6
    """How many times the time of a product and a norm it may be estimated to take in one."""

    def __init__(self, ask: Ask = cheaper_together) -> None:
        super().__init__()
        self.ask = ask

    def run(self, graph: Graph) -> int:
        """Fuse; return the number of norms that are no kernels any more."""
        plan = _Plan.of(graph)
        if not plan.taken:
            return 0
        before, after = plan.before(), plan.trials()
        prices = dict(zip(before, self.ask(before, [inf] * len(before)), strict=True))
        norms = [_known(prices[n.node]) for n in (*plan.taken, *plan.moved)]
        whole = sum(map(_known, prices.values()))
        if not whole < inf or sum(norms) < self.LEAST_SHARE * whole:
            return 0
        most = [self.WORTH_TIMING * (_known(prices[n]) + max(norms)) for n, _ in after]
        together = self.ask([trial for _, trial in after], most)
        every = [*prices.values(), *together]
        if None in every:
            return 0
        measured = all(p.measured is not None for p in every if p is not None)
        alone = sum(_microseconds(p, measured) for p in prices.values())
        fused = sum(_microseconds(p, measured) for p in together)
        if alone - fused <= self.LEAST_GAIN * alone:
            return 0
        plan.apply()
        return len(plan.taken)


def _known(p: Price | None) -> float:
    return inf if p is None else p.estimated if p.measured is None else p.measured


def _microseconds(p: Price | None, measured: bool) -> float:
    """Return a price; where some are not ``measured``, all are estimates."""
    assert p is not None
    return p.measured if measured and p.measured is not None else p.estimated


@dataclass
class _Plan:
    """The norms to take in, and what the products around them do then."""

    graph: Graph
    taken: list[_Norm] = field(default_factory=list)
    moved: list[_Norm] = field(default_factory=list)
    """Norms that stay, whose sum moves into the product in front."""
    roles: dict[Node, _Role] = field(default_factory=dict)

    @staticmethod
    def of(graph: Graph) -> _Plan:
        """Return what can be done to a graph."""
        plan = _Plan(graph)
        norms = {n.result: n for node in graph.nodes() if (n := _norm(graph, node)) is not None}
        adders = {n.node: n for n in norms.values() if n.rest is not None}
        plan.taken = [n for n in norms.values() if _serves(graph, n, adders)]
        results = {n.result for n in plan.taken}
        plan.moved = [n for n in adders.values() if n.rest in results and n not in plan.taken]
        for norm in (*plan.taken, *plan.moved):
            role = plan.roles.setdefault(norm.product, _Role())
            role.summed = norm in plan.taken
            if norm.rest is not None:
                role.rest = norm.rest
        taken = {n.result: n for n in plan.taken}
        for node in graph.nodes():
            if isinstance(node.op, ops.Matmul):
                plan._read(node, taken)
        return plan

    def _read(self, node: Node, taken: dict[Value, _Norm]) -> None:
        """Note which norms a product reads."""
        role = self.roles.get(node, _Role())
        role.rows = taken.get(node.inputs[0])
        rest = role.rest or (node.inputs[_RESIDUAL] if len(node.inputs) > _RESIDUAL else None)
        if rest is not None:
            role.residual = taken.get(rest)
        if role.rows or role.residual:
            self.roles[node] = role

    def before(self) -> list[Node]:
        """Return the nodes that are there now."""
        return [*self.roles, *(n.node for n in (*self.taken, *self.moved))]

    def trials(self) -> list[tuple[Node, Node]]:
        """Return what would be there, each with the node in whose place it is."""
        found = [(p, _region(p, role, _detached, {})) for p, role in self.roles.items()]
        return found + [(n.node, _norm_alone(n, _detached(n.product.output))) for n in self.moved]

    def apply(self) -> None:
        """Put regions where products are."""
        graph, made = self.graph, dict[Value, _Made]()
        by_product = {n.product: n for n in (*self.taken, *self.moved)}

        def take(v: Value) -> Value:
            return made[v].y if v in made else v

        for product in [n for n in graph.nodes() if n in self.roles]:
            region = _region(product, self.roles[product], take, made)
            y, *sums = region.outputs
            y.name = product.output.name
            made[product.output] = _Made(y, tuple(sums))
            norm = by_product.get(product)
            if norm is None or norm.rest is None:
                graph.replace(product.output, y)
                continue
            if norm.total is not None:
                made[norm.total] = made[product.output]
                graph.replace(norm.total, y)
            if norm in self.moved:
                graph.replace(norm.result, _norm_alone(norm, y).output)


def _serves(graph: Graph, norm: _Norm, adders: dict[Node, _Norm]) -> bool:
    """Whether all that reads normalized rows can normalize them by itself."""
    count = 0
    for user in norm.result.users:
        adder = adders.get(user)
        if adder is not None:
            if adder.rest is not norm.result:
                return False
            count += 1
            continue
        places = [i for i, v in enumerate(user.inputs) if v is norm.result]
        multiplies = isinstance(user.op, ops.Matmul) and not user.op.transpose_a
        if (
            not multiplies
            or not set(places) <= {0, _RESIDUAL}
            or not has_constant_weight(user.output)
        ):
            return False
        if 0 in places and _RESIDUAL not in places and user.output.tensor.rank != norm.rows.rank:
            return False
        count += len(places)
    return 0 < count == graph.uses(norm.result)


def _norm(graph: Graph, node: Node) -> _Norm | None:
    """Return a node as a norm of the rows of a product; None for other nodes."""
    if isinstance(node.op, ops.LayerNorm):
        found = _of_product(node, node.op, node.inputs[1:], (), node.inputs[0], None)
    elif isinstance(node.op, ops.Region) and node.op.kind == "row":
        found = _in_region(graph, node)
    else:
        found = None
    return found if found is not None and _is_rowwise(found) else None


def _in_region(graph: Graph, node: Node) -> _Norm | None:
    assert isinstance(node.op, ops.Region)
    body = node.op.body
    outer = dict(zip(body.inputs, node.inputs, strict=True))
    nodes = list(body.nodes())
    if not all(b.inputs[0] is a.output for a, b in pairwise(nodes)):
        return None
    if body.outputs[-1] is not nodes[-1].output:
        return None
    others = body.outputs[:-1]
    add = nodes.pop(0) if isinstance(nodes[0].op, ops.Binary) else None
    casts: tuple[ops.Cast, ...] = ()
    match [n.op for n in nodes]:
        case [ops.LayerNorm() as op]:
            affine = nodes[0].inputs[1:]
        case [ops.Cast() as widen, ops.LayerNorm() as op, ops.Cast() as narrow]:
            casts, affine = (widen, narrow), nodes[1].inputs[1:]
        case _:
            return None
    if any(v not in outer for v in affine) or others != ([add.output] if others and add else []):
        return None
    vectors = tuple(outer[v] for v in affine)
    if add is None:
        x = outer.get(nodes[0].inputs[0])
        return None if x is None else _of_product(node, op, vectors, casts, x, None)
    terms = [outer.get(v) for v in add.inputs]
    if not isinstance(add.op, ops.Binary) or add.op.kind is not BinaryKind.ADD:
        return None
    for v, rest in (terms, reversed(terms)):
        if v is None or rest is None or v.type != rest.type:
            continue
        if is_open(v) and graph.uses(v) == 1:
            total = node.outputs[0] if others else None
            found = _of_product(node, op, vectors, casts, v, rest, total)
            if found is not None:
                return found
    return None


def _of_product(
    node: Node,
    op: ops.LayerNorm,
    affine: Sequence[Value],
    casts: tuple[ops.Cast, ...],
    x: Value,
    rest: Value | None,
    total: Value | None = None,
) -> _Norm | None:
    product = x.node
    if product is None or not isinstance(product.op, ops.Matmul):
        return None
    if product.op.activation is not None or not has_constant_weight(x):
        return None
    return _Norm(node, op, tuple(affine), casts, product, rest, total)


def _is_rowwise(n: _Norm) -> bool:
    """Whether a norm is one of the last axis, of 16-bit rows that fall into groups."""
    size = n.rows.shape[-1]
    if n.rows.dtype not in _HALVES or n.op.axis != n.rows.rank - 1 or not isinstance(size, int):
        return False
    rows = product_of(n.rows.shape[:-1])
    if is_static(rows) and int(rows) < _FEWEST_ROWS:  # type: ignore[arg-type]
        return False
    vectors = all(is_constant(v) and v.tensor.shape == (size,) for v in n.affine)
    same = n.result.type == n.product.output.type
    return vectors and same and summed(size) > 0


def summed(columns: int) -> int:
    """Return of how many columns each sums are taken, 0 where they do not fall into groups."""
    fits = (n for n in _SUMMED if columns % n == 0 and columns // n <= _MOST_GROUPS)
    return next(fits, 0)


def _detached(v: Value) -> Value:
    """Return a value of its own that is like another."""
    if v.node is not None and is_constant(v):
        return emit_node(v.node.op, (), loc=v.loc).output
    return Value(v.type, v.name, v.loc)


def _norm_alone(norm: _Norm, y: Value) -> Node:
    """Return a norm of a value, as a region where it is more than one operator."""
    loc = norm.node.loc
    if not norm.casts:
        return emit_node(norm.op, [y, *norm.affine], loc=loc)
    body = Graph()
    operands = [y, *norm.affine]
    inner = [body.input(f"i{i}", v.type, v.loc) for i, v in enumerate(operands)]
    body.output(_normalized(norm, inner[0], inner[1:]), norm.result.name or "n")
    return emit_node(ops.Region(body=body, kind="row"), operands, loc=loc)


def _normalized(norm: _Norm, x: Value, affine: Sequence[Value]) -> Value:
    for op in (*norm.casts[:1], norm.op, *norm.casts[1:]):
        x = emit(op, [x, *(affine if op is norm.op else ())], loc=norm.node.loc)
    return x


def _region(product: Node, role: _Role, take: Take, made: dict[Value, _Made]) -> Node:
    """Return a product with what it does besides, its operands as ``take`` gives them."""
    body = Graph()
    inside: dict[Value, Value] = {}

    def enter(v: Value) -> Value:
        if v not in inside:
            inside[v] = body.input(f"i{len(inside)}", v.type, v.loc)
        return inside[v]

    def operand(v: Value, norm: _Norm | None) -> Value:
        if norm is None:
            return enter(v)
        return _normalized(norm, enter(norm.product.output), [enter(a) for a in norm.affine])

    a, w, *added = product.inputs
    values = [operand(a, role.rows), enter(w)]
    rest = role.rest if role.rest is not None else (added[1] if len(added) > 1 else None)
    if rest is not None and not added:
        zeros = np.zeros(channels(product.output), a.tensor.dtype.numpy)
        added = [emit(ops.Const.of(zeros), (), loc=product.loc)]
    values += map(enter, added[:1])
    if rest is not None:
        values.append(operand(rest, role.residual))
    y = emit(product.op, values, loc=product.loc)
    results = [y, *(_sums(y) if role.summed else ())]
    for i, v in enumerate(results):
        body.output(v, f"o{i}")
    given = [take(v) for v in inside]
    for norm in (role.rows, role.residual):
        if norm is not None:
            found = made.get(norm.product.output)
            sums = _sums_like(norm.rows) if found is None else found.sums
            given += sums
            for v in sums:
                body.input(f"i{len(body.inputs)}", v.type, v.loc)
    rule = FuseRowNorms.__name__
    norms = [n.node.loc for n in (role.rows, role.residual) if n is not None]
    loc = Loc.fused(rule, product.loc, *norms)
    return emit_node(ops.Region(body=body, kind=KIND), given, loc=loc)


def _sums(y: Value) -> list[Value]:
    """Return the sums of groups of columns, and of their squares."""
    *outer, size = y.tensor.shape
    each = summed(int(size))  # type: ignore[arg-type]
    wide = emit(ops.Cast(dtype=DType.F32), [y], loc=y.loc)
    shape = (*outer, int(size) // each, each)  # type: ignore[arg-type]
    groups = emit(ops.Reshape(shape=shape), [wide], loc=y.loc)
    kinds, axes = (ReduceKind.SUM, ReduceKind.SUM_SQUARE), (len(outer) + 1,)
    return [
        emit(ops.Reduce(kind=kind, axes=axes, keepdims=False), [groups], loc=y.loc)
        for kind in kinds
    ]


def _sums_like(rows: TensorType) -> tuple[Value, ...]:
    *outer, size = rows.shape
    groups = int(size) // summed(int(size))  # type: ignore[arg-type]
    type = TensorType(DType.F32, (*outer, groups))
    return (Value(type, "", Loc("")), Value(type, "", Loc("")))
