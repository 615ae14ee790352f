"""Kernels that the code generator makes from an operator or a fused region."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from lamina.backends.cuda.request import Argument, CudaDraft, KernelRequest, Launch, Scalar
from lamina.backends.cuda.target import CudaTarget
from lamina.codegen.kernel_source import NestKernel
from lamina.codegen.kernels import KernelSource, kernel_for
from lamina.codegen.kernels import Reject as Refused
from lamina.codegen.layout import Layout
from lamina.codegen.lowering import Rule
from lamina.codegen.nest import LoopNest, Refusal, Table
from lamina.codegen.rules import RULES
from lamina.codegen.rules_last_resort import LAST_RESORT_RULES
from lamina.codegen.split_reduction import SplitReduction, split_reduction
from lamina.codegen.triton.cost import Rates
from lamina.codegen.triton.kernel import Argument as KernelArgument
from lamina.codegen.triton.kernel import Operand, TritonKernel
from lamina.codegen.triton.variants import Variant, variants
from lamina.errors import BuildError
from lamina.ir.graph import Node, Op, Value
from lamina.ir.pattern import Reject
from lamina.ir.text import print_graph
from lamina.ir.types import DType, TensorType
from lamina.ir.weight import Weight
from lamina.ops import (
    Const,
    Convolution,
    Deconvolution,
    HostCall,
    Matmul,
    Nms,
    NonZero,
    PluginCall,
    Region,
    ScatterElements,
    ScatterNd,
    Shape,
    TopK,
)
from lamina.tactics.candidate import Blob, Candidate, Placement, Read, Scratch, Write, constant
from lamina.tactics.form import Form, layout

_ELSEWHERE: Final = (Nms, NonZero, ScatterElements, ScatterNd, TopK)
"""Operators that other tactics run."""

_F32_SHARE: Final = 0.5
"""Scalar operations that are no multiply-adds, as a share of the rate of those in f32."""

_MOST_SPLIT_ROWS: Final = 128
_PIECES: Final = tuple(range(256, 3, -1))
"""Into how many pieces a reduction may be cut; the first that divides its longest loop is taken."""

Forms = tuple[tuple[Form, ...], tuple[Form, ...]]

_MOST_ANSWERS: Final = 2048
_ANSWERS: Final[OrderedDict[object, list[Variant] | Refused]] = OrderedDict()
"""Kernels of nodes by what decides them: a network repeats its layers, and builds are repeated."""


class Generated:
    """Everything that is not a contraction."""

    name = "codegen"
    rules: Mapping[type[Op], Rule] = RULES

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer some tiles for each combination of forms."""
        if isinstance(node.op, _ELSEWHERE):
            return None
        if isinstance(node.op, Const | HostCall | PluginCall) or not all_tensors(node):
            return Reject("only NumPy can run it")
        found: list[Candidate] = []
        reason = ""
        for reads, writes in dict.fromkeys(_form_choices(node, target)):
            ends = _Ends(
                tuple(layout(v.tensor, f) for v, f in zip(node.inputs, reads, strict=True)),
                tuple(layout(v.tensor, f) for v, f in zip(node.outputs, writes, strict=True)),
            )
            offered = _variants(node, ends, target, self.rules)
            if isinstance(offered, Refused):
                reason = reason or offered.reason
                continue
            found += [
                self._candidate(node, target, (reads, writes), number, variant)
                for number, variant in enumerate(offered)
            ]
        return found or Reject(reason)

    def _candidate(
        self, node: Node, target: CudaTarget, forms: Forms, number: int, variant: Variant
    ) -> Candidate:
        def draft(p: Placement) -> CudaDraft:
            placed = _variants(node, _Ends(p.operands, p.results), target, self.rules)
            if isinstance(placed, Refused):
                raise BuildError(f"the code generator refused the final layout: {placed.reason}")
            chosen = placed[min(number, len(placed) - 1)]
            return variant_draft(chosen, (len(node.inputs), len(node.outputs)), target)

        return Candidate(
            tactic=f"{self.name} {number}: {variant.name}",
            reads=forms[0],
            writes=forms[1],
            estimate_microseconds=variant.microseconds,
            draft=draft,  # type: ignore[arg-type]
        )


class GeneratedLast(Generated):
    """What nothing else takes; see :mod:`lamina.codegen.rules_last_resort`."""

    name = "sums"
    rules = LAST_RESORT_RULES

    def candidates(self, node: Node, target: CudaTarget) -> list[Candidate] | Reject | None:
        """Offer some tiles for contractions, and for sizes as values."""
        if not isinstance(node.op, Matmul | Convolution | Deconvolution | Shape):
            return None
        return super().candidates(node, target)


@dataclass(frozen=True)
class _Ends:
    operands: tuple[Layout, ...]
    results: tuple[Layout, ...]


def all_tensors(node: Node) -> bool:
    """Whether a GPU can hold every operand and result."""
    types = [v.type for v in (*node.inputs, *node.outputs)]
    return all(isinstance(t, TensorType) and t.dtype is not DType.STR for t in types)


def _form_choices(node: Node, target: CudaTarget) -> Iterator[Forms]:
    """Yield forms for all operands and results: one family at either end."""
    plain = Form.PLAIN
    reads = tuple(
        Form.CHANNELS_LAST
        if constant(v) is None and Form.CHANNELS_LAST in target.forms(v.type)
        else plain
        for v in node.inputs
    )
    writes = tuple(
        Form.CHANNELS_LAST if Form.CHANNELS_LAST in target.forms(v.type) else plain
        for v in node.outputs
    )
    all_plain = ((plain,) * len(reads), (plain,) * len(writes))
    yield all_plain
    yield reads, writes
    yield reads, all_plain[1]
    yield all_plain[0], writes


def _split(nest: LoopNest, workspace: int) -> SplitReduction | None:
    """Cut reductions with few results into pieces for all processors."""
    return split_reduction(nest, workspace, pieces=_PIECES, most_rows=_MOST_SPLIT_ROWS)


def rates(target: CudaTarget) -> Rates:
    """Return what generated kernels are estimated with."""
    return Rates(
        processors=target.sms,
        bytes_per_microsecond=target.bytes_per_microsecond,
        operations_per_microsecond=target.flops_per_microsecond["f32"] * _F32_SHARE,
        env=target.env,
    )


def _variants(
    node: Node, ends: _Ends, target: CudaTarget, rules: Mapping[type[Op], Rule]
) -> list[Variant] | Refused:
    key = (_question(node), ends, target, id(rules))
    known = _ANSWERS.pop(key, None) or _answer(node, ends, target, rules)
    while len(_ANSWERS) >= _MOST_ANSWERS:
        _ANSWERS.popitem(last=False)
    _ANSWERS[key] = known
    return known


def _answer(
    node: Node, ends: _Ends, target: CudaTarget, rules: Mapping[type[Op], Rule]
) -> list[Variant] | Refused:
    source = kernel_for(node, ends.operands, ends.results, _split, rules)
    if isinstance(source, Refused):
        return source
    constants = frozenset(i for i, v in enumerate(node.inputs) if constant(v) is not None)
    return _of_source(source, target, constants)


def _question(node: Node) -> tuple[object, ...]:
    """Return what decides a node's kernels besides layouts: equal for the layers of a stack."""
    op = print_graph(node.op.body) if isinstance(node.op, Region) else str(node.op)
    operands = [(v.type, _single(v)) for v in node.inputs]
    return (type(node.op), op, *operands, *(v.type for v in node.outputs))


def _single(v: Value) -> bytes | bool:
    """Return the one number of a constant, which kernels may contain, or whether it is one."""
    weight = constant(v)
    if weight is None or weight.contents.size != 1:
        return weight is not None
    return weight.contents.tobytes()


def _of_source(
    source: KernelSource, target: CudaTarget, constants: frozenset[int] = frozenset()
) -> list[Variant] | Refused:
    try:
        if isinstance(source, NestKernel):
            return variants(source, rates(target), constants)
    except Refusal as reason:
        return Refused(str(reason))
    return Refused(f"{type(source).__name__} has no Triton form")


def copy_draft(source: KernelSource, target: CudaTarget) -> CudaDraft:
    """Return the step of a copy that is estimated the fastest; raises BuildError."""
    offered = _of_source(source, target)
    if isinstance(offered, Refused):
        raise BuildError(f"the code generator refused a kernel: {offered.reason}")
    return variant_draft(min(offered, key=lambda v: v.microseconds), (1, 1), target)


def variant_draft(variant: Variant, ends: tuple[int, int], target: CudaTarget) -> CudaDraft:
    """Return the step of a variant; ``ends`` counts operands and results."""
    launches = tuple(kernel_launch(k, ends, target) for k in variant.kernels)
    return CudaDraft(launches=launches, workspace_bytes=variant.workspace_bytes)


def kernel_launch(kernel: TritonKernel, ends: tuple[int, int], target: CudaTarget) -> Launch:
    """Return the launch of a generated kernel; ``ends`` counts operands and results."""
    request = KernelRequest(
        function=kernel.function,
        source=kernel.source,
        parameters=kernel.parameters,
        constants=(("DEPENDENT", target.dependent),),
        divisible=kernel.divisible,
        warps=kernel.warps,
        dependent=target.dependent,
    )
    arguments = tuple(_argument(a, *ends) for a in kernel.arguments)
    return Launch(kernel=request, grid=(kernel.programs, 1, 1), arguments=arguments)


def _argument(argument: KernelArgument, inputs: int, results: int) -> Argument:
    if isinstance(argument, Operand):
        if argument.number < inputs:
            return Read(argument.number)
        number = argument.number - inputs
        return Write(number) if number < results else Scratch()
    if isinstance(argument, Table):
        return Blob(Weight(np.array(argument.values, argument.dtype.numpy), "table"))
    return Scalar(argument.value)
