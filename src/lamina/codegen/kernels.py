"""Entry points: a kernel for a node, a fused region or a graph, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from lamina.codegen.kernel_source import KernelSource, NestKernel, Reject
from lamina.codegen.layout import Layout
from lamina.codegen.lowering import Rule, lower_graph
from lamina.codegen.movement_nms import nms_kernel
from lamina.codegen.movement_nonzero import nonzero_kernel
from lamina.codegen.movement_scatter import scatter_kernel
from lamina.codegen.movement_select import top_k_kernel
from lamina.codegen.nest import LoopNest, Refusal
from lamina.codegen.placement import map_operands
from lamina.codegen.rules import RULES
from lamina.codegen.sampling_roi import roi_align_kernel
from lamina.codegen.split_reduction import SplitReduction, split_reduction
from lamina.errors import LaminaError
from lamina.ir.dims import Dim
from lamina.ir.graph import Graph, Node, Op, Value, emit, emit_node
from lamina.ir.loc import Loc
from lamina.ir.types import TensorType
from lamina.ops.const import Const
from lamina.ops.control import Region
from lamina.ops.detection import Nms
from lamina.ops.indexing import NonZero
from lamina.ops.movement import Concat, Reshape
from lamina.ops.reduce import Cumulative, TopK
from lamina.ops.sampling import RoiAlign
from lamina.ops.scatter import ScatterElements, ScatterNd

__all__ = ["KernelSource", "NestKernel", "Reject", "copy_kernel", "kernel_for", "lower"]

Split = Callable[[LoopNest, int], SplitReduction | None]


def kernel_for(
    node: Node,
    inputs: Sequence[Layout | None] | None = None,
    outputs: Sequence[Layout | None] | None = None,
    split: Split = split_reduction,
    rules: Mapping[type[Op], Rule] = RULES,
) -> KernelSource | Reject:
    """Return a kernel for one node (a Region counts as one).

    A layout of None means row-major.  The kernel's arguments are the node's inputs, its outputs,
    then a workspace if it asks for one.  ``rules`` make the loop nests.
    """
    try:
        for value in (*node.inputs, *node.outputs):
            if not isinstance(value.type, TensorType):
                return Reject(f"%{value.name} is {value.type}, not a tensor")
        sources = _layouts(node.inputs, inputs)
        targets = _layouts(node.outputs, outputs)
        if isinstance(node.op, Concat):
            return _concat(node, sources, targets[0])
        if isinstance(node.op, ScatterElements | ScatterNd):
            return _scatter(node, node.op, sources, targets)
        if isinstance(node.op, NonZero):
            return nonzero_kernel(node.inputs[0].tensor, sources)
        if isinstance(node.op, Nms):
            return nms_kernel(node.op, [v.tensor for v in node.inputs], sources)
        if isinstance(node.op, RoiAlign) and node.op.sampling_ratio <= 0:
            return roi_align_kernel(node.op, [v.tensor for v in node.inputs], [*sources, *targets])
        if isinstance(node.op, TopK):
            op, x = node.op, node.inputs[0].tensor
            return top_k_kernel(x, op.k, op.axis, op.largest, [*sources, *targets])
        if isinstance(node.op, Cumulative) and node.op.reverse:
            node, sources, targets = _mirrored(node, node.op, sources, targets)
        graph = node.op.body if isinstance(node.op, Region) else _alone(node, rules)
        return lower(graph, sources, targets, split, rules)
    except Refusal as reason:
        return Reject(str(reason))
    except LaminaError as error:
        return Reject(f"{type(error).__name__}: {error}")


def lower(
    graph: Graph,
    inputs: Sequence[Layout | None] | None = None,
    outputs: Sequence[Layout | None] | None = None,
    split: Split = split_reduction,
    rules: Mapping[type[Op], Rule] = RULES,
) -> NestKernel | Reject:
    """Return one fused kernel for a whole graph (the body of a region).

    ``split`` cuts a nest, given the operand number of a workspace, in two where that pays.
    """
    try:
        nest = lower_graph(
            graph, rules, _layouts(graph.inputs, inputs), _layouts(graph.outputs, outputs)
        )
    except Refusal as reason:
        return Reject(str(reason))
    cut = split(nest, len(graph.inputs) + len(graph.outputs))
    if cut is not None:
        return NestKernel(((cut.partial,), (cut.final,)), cut.workspace_bytes)
    return NestKernel(((nest,),))


def copy_kernel(
    source: TensorType,
    source_layout: Layout,
    target_layout: Layout,
    target: TensorType | None = None,
) -> NestKernel | Reject:
    """Return a kernel that copies a tensor between two layouts (a reorder).

    ``target`` may have another shape with as many elements: the copy is then a reshape.
    """
    graph = Graph()
    x = graph.input("x", source)
    shape = source.shape if target is None else target.shape
    graph.output(emit(Reshape(shape=shape), [x], loc=Loc("copy")))
    return lower(graph, [source_layout], [target_layout])


def _layouts(values: Sequence[Value], given: Sequence[Layout | None] | None) -> list[Layout]:
    if given is None:
        return [Layout.dense(v.tensor.shape) for v in values]
    return [
        Layout.dense(v.tensor.shape) if layout is None else layout
        for v, layout in zip(values, given, strict=True)
    ]


def _alone(node: Node, rules: Mapping[type[Op], Rule]) -> Graph:
    """Return a graph of this node only; scalar constants among its operands stay known.

    Raises Refusal for what no rule lowers: making the graph infers types.
    """
    if type(node.op) not in rules:
        raise Refusal(f"{node.op.name} has no loop-nest rule")
    graph = Graph()
    operands = []
    for i, value in enumerate(node.inputs):
        operand = graph.input(f"x{i}", value.type)
        if isinstance(value.op, Const) and value.tensor.is_static and value.tensor.size == 1:
            operand = emit(value.op, [], loc=value.loc)
        operands.append(operand)
    made = emit_node(node.op, operands, loc=node.loc)
    for value in made.outputs:
        graph.output(value)
    return graph


def _concat(node: Node, sources: list[Layout], target: Layout) -> NestKernel | Reject:
    """Copy each operand into its part of the result."""
    op = node.op
    assert isinstance(op, Concat)
    nests: list[LoopNest] = []
    start: Dim = 0
    count = len(node.inputs)
    for i, value in enumerate(node.inputs):
        shifted = _shifted(target, op.axis, start)
        part = copy_kernel(value.tensor, sources[i], shifted)
        if isinstance(part, Reject):
            return part
        ((nest,),) = part.nests
        nests.append(map_operands(nest, {0: i, 1: count}))
        start = start + value.tensor.shape[op.axis]
    return NestKernel((tuple(nests),))


def _scatter(
    node: Node, op: ScatterElements | ScatterNd, sources: list[Layout], targets: list[Layout]
) -> KernelSource | Reject:
    """Copy the first operand, then write the updates."""
    types = [v.tensor for v in node.inputs]
    copy = copy_kernel(types[0], sources[0], targets[0])
    if isinstance(copy, Reject):
        return copy
    nests = tuple(tuple(map_operands(n, {1: 3}) for n in phase) for phase in copy.nests)
    axis = op.axis if isinstance(op, ScatterElements) else None
    return scatter_kernel(NestKernel(nests), types, axis, op.reduction, [*sources, *targets])


def _shifted(layout: Layout, axis: int, start: Dim) -> Layout:
    if layout.is_blocked and layout.block_axis == axis:
        if not isinstance(start, int) or start % layout.block:
            raise Refusal(f"an operand starts at {start}, inside a block of {layout.block}")
        return replace(layout, offset=layout.offset + start // layout.block * layout.strides[axis])
    return replace(layout, offset=layout.offset + start * layout.strides[axis])


def _mirrored(
    node: Node, op: Cumulative, sources: list[Layout], targets: list[Layout]
) -> tuple[Node, list[Layout], list[Layout]]:
    """Return the forward reduction over views that run backwards along the axis."""
    size = node.inputs[0].tensor.shape[op.axis]

    def flipped(layout: Layout) -> Layout:
        if layout.is_blocked and layout.block_axis == op.axis:
            raise Refusal("a running reduction from the end of a blocked axis")
        strides = list(layout.strides)
        offset = layout.offset + (size - 1) * strides[op.axis]
        strides[op.axis] = strides[op.axis] * -1
        return replace(layout, strides=tuple(strides), offset=offset)

    forward = emit_node(replace(op, reverse=False), node.inputs, loc=node.loc)
    for value in node.inputs:
        value.users.pop(forward, None)
    return forward, [flipped(s) for s in sources], [flipped(t) for t in targets]
