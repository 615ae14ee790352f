"""Which nodes may share a loop nest: clusters of a graph without cycles between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lamina import ops
from lamina.ir.dims import Dim, product
from lamina.ir.graph import Graph, Node, Value
from lamina.ir.types import DType, TensorType
from lamina.passes.constants import array_of

MAX_INPUTS = 16
MAX_NODES = 64
MAX_ROW_ELEMENTS = 1 << 16
"""A row is read more than once: it should stay in the cache of a core."""

_POINTWISE = (ops.Unary, ops.Activation, ops.Binary, ops.Select, ops.Cast)
_ROW_NORMS = (ops.Softmax, ops.LayerNorm, ops.RmsNorm)
_TYPES = frozenset(
    {
        DType.F64, DType.F32, DType.F16, DType.BF16, DType.BOOL, DType.I8, DType.U8, DType.I16,
        DType.U16, DType.I32, DType.U32, DType.I64, DType.U64,
    }
)  # fmt: skip
_SHAPE_ELEMENTS = 64


@dataclass(eq=False)
class Cluster:
    """Nodes that become one region, or one node that cannot be fused.

    ``shape`` is that of the loop nest and ``axes`` what its reductions and norms work along (None:
    nothing yet).  ``ancestors`` has the bits of all clusters that must run before this one.
    """

    number: int
    nodes: list[Node]
    shape: tuple[Dim, ...] | None = None
    axes: tuple[int, ...] | None = None
    keepdims: bool = True
    inputs: set[Value] = field(default_factory=set)
    ancestors: int = 0
    before: set[Cluster] = field(default_factory=set)
    members: set[Node] = field(default_factory=set)

    @property
    def bit(self) -> int:
        """Return the bit of this cluster in sets of ancestors."""
        return 1 << self.number

    @property
    def reduced_shape(self) -> tuple[Dim, ...] | None:
        """Return the shape of a reduced value, None without reductions."""
        if self.axes is None or self.shape is None:
            return None
        if self.keepdims:
            return tuple(1 if i in self.axes else d for i, d in enumerate(self.shape))
        return tuple(d for i, d in enumerate(self.shape) if i not in self.axes)

    def is_row_op(self, node: Node) -> bool:
        """Whether the node works along the axes."""
        return isinstance(node.op, (ops.Reduce, *_ROW_NORMS))


class Clusters:
    """Clusters grown by adding nodes in order of evaluation.

    Two clusters may be merged unless one depends on the other through a third.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.of: dict[Node, Cluster] = {}
        self.alive: dict[Cluster, None] = {}
        self.order: dict[Node, int] = {}

    def fusible(self) -> Iterator[Cluster]:
        """Yield the clusters of nodes that can be fused, each in order of evaluation."""
        for cluster in self.alive:
            if cluster.shape is not None:
                cluster.nodes.sort(key=self.order.__getitem__)
                yield cluster

    def add(self, node: Node) -> None:
        """Put the node into the clusters of its operands where it fits, or into a new one."""
        if isinstance(node.op, ops.Const):
            return
        sources = dict.fromkeys(
            self.of[v.node] for v in self._needs(node) if v.node is not None and v.node in self.of
        )
        cluster = self._create(node, set(sources))
        if cluster.shape is None:
            return
        # A source that had to wait for another one gets a second chance.
        for source in (*sources, *reversed(sources)):
            if source in self.alive and source is not cluster and self._joins(source, cluster):
                cluster = self._merge(source, cluster)

    def _joins(self, source: Cluster, cluster: Cluster) -> bool:
        return self._compatible(source, cluster) and _acyclic(source, cluster)

    def _needs(self, node: Node) -> list[Value]:
        if not self.graph.definers:
            return list(node.inputs)
        definers = self.graph.definers
        return [*node.inputs, *(definers[s] for s in node.op.symbols() if s in definers)]

    def _create(self, node: Node, before: set[Cluster]) -> Cluster:
        cluster = Cluster(len(self.order), [node], before=before, members={node})
        self.order[node] = cluster.number
        if (demand := _demand(node)) is not None:
            cluster.shape, cluster.axes, cluster.keepdims = demand
            cluster.inputs = {v for v in node.inputs if not _is_number(v)}
        for c in before:
            cluster.ancestors |= c.ancestors | c.bit
        self.of[node] = cluster
        self.alive[cluster] = None
        return cluster

    def _compatible(self, source: Cluster, cluster: Cluster) -> bool:
        """Whether the loop nests fit; ``cluster`` reads from ``source``."""
        if source.shape is None or cluster.shape is None:
            return False
        if len(source.nodes) + len(cluster.nodes) > MAX_NODES:
            return False
        made = {v for n in (*source.nodes, *cluster.nodes) for v in n.outputs}
        if len((source.inputs | cluster.inputs) - made) > MAX_INPUTS:
            return False
        if source.axes is None or cluster.axes is None:
            return self._one_reduces(source, cluster)
        same = source.shape == cluster.shape and source.axes == cluster.axes
        return same and _is_rows(source) and _is_rows(cluster)

    def _one_reduces(self, source: Cluster, cluster: Cluster) -> bool:
        if source.shape == cluster.shape:
            reducing = cluster if cluster.axes is not None else source
            # Without kept axes (or over outer ones) values of the whole shape cannot follow.
            if reducing.axes is None or _is_rows(reducing):
                return True
            return reducing is cluster and self._consumed(source, cluster)
        return cluster.axes is None and self._is_epilogue(source, cluster)

    def _consumed(self, source: Cluster, cluster: Cluster) -> bool:
        """Whether nothing else reads what ``source`` computes."""
        members = source.members | cluster.members
        return all(
            all(u in members for u in v.users) and self.graph.uses(v) == len(v.users)
            for n in source.nodes
            for v in n.outputs
        )

    def _is_epilogue(self, source: Cluster, cluster: Cluster) -> bool:
        """Whether ``cluster`` works on the reduced values of ``source``."""
        if source.reduced_shape != cluster.shape:
            return False
        made = {v for n in source.nodes for v in n.outputs}
        return all(v.tensor.shape == cluster.shape for v in cluster.inputs & made)

    def _merge(self, a: Cluster, b: Cluster) -> Cluster:
        """Move everything of ``b`` into ``a``; keep ancestors closed over the merged cluster."""
        if a.axes is None and b.axes is not None:
            a.axes, a.keepdims = b.axes, b.keepdims
        newest = len(b.nodes) == 1 and b.number == len(self.order) - 1
        for node in b.nodes:
            self.of[node] = a
        a.nodes += b.nodes
        a.members |= b.members
        a.inputs = (a.inputs | b.inputs) - {v for n in a.nodes for v in n.outputs}
        both = a.bit | b.bit
        grown = (a.ancestors | b.ancestors) & ~both
        del self.alive[b]
        if not newest or grown & ~a.ancestors:
            for c in self.alive:
                if c is not a and c.ancestors & both:
                    c.ancestors |= grown | a.bit
                    if b in c.before:
                        c.before = (c.before - {b}) | {a}
        a.ancestors, a.before = grown, (a.before | b.before) - {a, b}
        return a


def _acyclic(source: Cluster, cluster: Cluster) -> bool:
    """Whether no third cluster lies on a path between the two."""
    through = any(c is not source and c.ancestors & source.bit for c in cluster.before)
    back = any(c is not cluster and c.ancestors & cluster.bit for c in source.before)
    return not through and not back


def _is_rows(cluster: Cluster) -> bool:
    if cluster.axes is None or cluster.shape is None or not cluster.keepdims:
        return False
    return is_rows(cluster.shape, cluster.axes)


def is_rows(shape: tuple[Dim, ...], axes: tuple[int, ...]) -> bool:
    """Whether the axes are the last ones, of a fixed size that a cache holds."""
    rank = len(shape)
    if axes != tuple(range(rank - len(axes), rank)):
        return False
    elements = product(shape[a] for a in axes)
    return isinstance(elements, int) and 1 < elements <= MAX_ROW_ELEMENTS


def _demand(node: Node) -> tuple[tuple[Dim, ...], tuple[int, ...] | None, bool] | None:
    """Return (shape of the loop nest, axes worked along, whether they are kept) if fusible."""
    values = (*node.inputs, *node.outputs)
    if any(not isinstance(v.type, TensorType) or v.type.dtype not in _TYPES for v in values):
        return None
    if len(node.outputs) != 1 or _is_shape_arithmetic(node.output.tensor):
        return None
    op = node.op
    if not isinstance(op, (*_POINTWISE, ops.Reduce, *_ROW_NORMS)):
        return None
    if isinstance(op, _POINTWISE):
        return node.output.tensor.shape, None, True
    shape = node.inputs[0].tensor.shape
    rank = len(shape)
    if isinstance(op, ops.Reduce):
        # Reductions over the pixels of images stay alone: their operands may be blocked.
        if not op.axes or (rank > 3 and op.axes != (rank - 1,)):
            return None
        return shape, op.axes, op.keepdims
    axes = (op.axis,) if isinstance(op, ops.Softmax) else tuple(range(op.axis, rank))
    return (shape, axes, True) if is_rows(shape, axes) else None


def _is_shape_arithmetic(t: TensorType) -> bool:
    """Whether this looks like sizes or indices: a short vector of integers."""
    if not t.dtype.is_integer or t.rank > 1:
        return False
    return not t.is_static or product(t.shape) <= _SHAPE_ELEMENTS  # type: ignore[operator]


def _is_number(v: Value) -> bool:
    a = array_of(v)
    return a is not None and a.size == 1
