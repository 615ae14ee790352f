"""A convolution node as the tactics see it: what they read and pack, and how its operands lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from lamina.backends.cuda.tactics.convolution_launch import Convolved, Filters, needs_wide
from lamina.backends.cuda.tactics.fused import Fused, quantized
from lamina.backends.cuda.tactics.product import Matrix, Product, padded_depth
from lamina.backends.cuda.tactics.tf32 import packed_factors
from lamina.backends.cuda.tactics.tiles import Work
from lamina.backends.cuda.tactics.windows import (
    Image,
    Op,
    Windows,
    filters_of,
    image,
    packed_filters,
    parts,
    windows,
)
from lamina.backends.cuda.target import CudaTarget
from lamina.errors import BuildError
from lamina.ir.blocks import blocked
from lamina.ir.dims import Dim, evaluate, product
from lamina.ir.graph import Array, Node, Value
from lamina.ir.pattern import Reject
from lamina.ir.weight import Weight
from lamina.ops import Convolution, Deconvolution, QuantizedConvolution
from lamina.tactics.candidate import Packed, Placement, Read, Write, constant, sizes_known
from lamina.tactics.form import Form, layout

_LEAST_RANK: Final = 3
_MOST_RANK: Final = 5


@dataclass(frozen=True)
class Case:
    """A node whose images have the forms ``source`` (x) and channels last (the others)."""

    node: Node
    op: Op
    target: CudaTarget
    source: Form = Form.CHANNELS_LAST

    @property
    def bias(self) -> int:
        """Number of the bias, if there is one, among the operands; the residual follows."""
        return 3 if isinstance(self.op, QuantizedConvolution) else 2

    @property
    def reads(self) -> tuple[Form | None, ...]:
        """Forms of the operands."""
        given: list[Form | None] = [self.source, None if self.filters is not None else Form.PLAIN]
        if isinstance(self.op, QuantizedConvolution):
            given.append(None)
        given += [Form.PLAIN, Form.CHANNELS_LAST]
        return tuple(given[: len(self.node.inputs)])

    @property
    def writes(self) -> tuple[Form, ...]:
        """Forms of the result."""
        return (Form.CHANNELS_LAST,)

    @cached_property
    def filters(self) -> Array | None:
        """Constant filters as [filters, channels of a group, taps on three axes], or None."""
        weight = constant(self.node.inputs[1])
        return None if weight is None else filters_of(self.op, weight.array, self.op.groups)

    @property
    def dense(self) -> Placement:
        """Return where everything lies when nothing is a view."""
        forms = [form or Form.PLAIN for form in self.reads]
        operands = [layout(v.tensor, form) for v, form in zip(self.node.inputs, forms, strict=True)]
        return Placement(tuple(operands), (layout(self.node.output.tensor, self.writes[0]),), "")

    @property
    def windows(self) -> Windows:
        """Return the windows; of a transposed convolution those of its largest part."""
        x, w = (v.tensor for v in self.node.inputs[:2])
        whole = windows(self.op, x, w, self.node.output.tensor)
        return max((part for part, _ in parts(self.op, whole)), key=lambda p: p.tap_count)

    def fused(self, *, matrix: bool) -> Fused:
        """Return what is done with the sums."""
        if not isinstance(self.op, QuantizedConvolution):
            return Fused(activation=self.op.activation)
        scale = constant(self.node.inputs[2])
        assert scale is not None and self.filters is not None
        x = self.node.inputs[0].tensor.dtype
        return quantized(self.op, self.filters, scale.array, x, matrix=matrix)

    def convolved(self, at: Placement, *, matrix: bool) -> list[Convolved]:
        """Return the ordinary convolutions that compute the node."""
        x, w, y = (v.tensor for v in (*self.node.inputs[:2], self.node.output))
        bias, residual = self.operand(self.bias), self.operand(self.bias + 1)
        rest = None
        if residual is not None:
            rest = image(residual.tensor, at.operands[self.bias + 1], Read(self.bias + 1))
        found = []
        for part, taps in parts(self.op, windows(self.op, x, w, y)):
            found.append(
                Convolved(
                    windows=part,
                    x=image(x, at.operands[0], Read(0)),
                    w=self._filters(part, taps, matrix=matrix),
                    bias=None if bias is None else (Read(self.bias), bias.tensor.dtype),
                    residual=rest,
                    y=image(y, at.results[0], Write(0)),
                    fused=self.fused(matrix=matrix),
                    wide=needs_wide(
                        [(v.tensor.size, self.likely(v.tensor.size)) for v in self.images]
                    ),
                    deep=x.rank == _MOST_RANK,
                )
            )
        return found

    @property
    def images(self) -> list[Value]:
        """Return the operands and results that are images."""
        residual = self.operand(self.bias + 1)
        return [self.node.inputs[0], self.node.output, *([] if residual is None else [residual])]

    def operand(self, number: int) -> Value | None:
        """Return an operand that may be absent."""
        return self.node.inputs[number] if number < len(self.node.inputs) else None

    def likely(self, size: Dim) -> int:
        """Return the likeliest value of a size."""
        return evaluate(size, self.target.env)

    def work(self) -> Work:
        """Return the sizes of the implicit product."""
        at = self.windows
        values = (*self.node.inputs, self.node.output)
        moved = sum(self.likely(v.tensor.size) * v.tensor.dtype.itemsize for v in values)
        return Work(
            rows=self.likely(at.pixels),
            columns=at.filters,
            depth=at.channels,
            matrices=at.groups,
            taps=at.tap_count,
            dtype=self.node.inputs[0].tensor.dtype,
            moved_bytes=float(moved),
        )

    def product(self, at: Placement) -> Product:
        """Return a pointwise convolution as a matrix product over pixels."""
        (c,) = self.convolved(at, matrix=True)
        where = c.windows
        images = [i for i in (c.x, c.residual, c.y) if i is not None]
        joined = all(i.is_run(where.images, where.outer) for i in images)
        if not joined and not all(i.is_run(1, where.outer) for i in images):
            raise BuildError("the pixels of an image do not follow each other at equal distances")
        rows = product((where.images if joined else 1, *where.outer))

        def matrix(i: Image) -> Matrix:
            return Matrix(i.role, i.dtype, i.spatial[-1], 1, 0 if joined else i.batch)

        bias = None if c.bias is None else Matrix(*c.bias, 0, 1)
        return Product(
            rows=rows,
            columns=where.filters,
            depth=where.channels,
            outer=1 if joined else where.images,
            a=matrix(c.x),
            b=Matrix(c.w.role, c.w.dtype, c.w.channel, c.w.filter),
            bias=bias,
            residual=None if c.residual is None else matrix(c.residual),
            y=matrix(c.y),
            fused=c.fused,
            packed=c.w.packed,
        )

    def _filters(self, part: Windows, taps: tuple[slice, slice, slice], *, matrix: bool) -> Filters:
        if self.filters is None:
            return self._plain(part)
        if part.channels == 1 and not matrix:
            return self._side_by_side(part, taps)
        return self._packed(part, taps)

    def _side_by_side(self, part: Windows, taps: tuple[slice, slice, slice]) -> Filters:
        """Return filters of one channel as [taps, filters]: neighbours are read together."""
        w, dtype = self.filters, self.node.inputs[1].tensor.dtype
        assert w is not None
        count, filters = part.tap_count, w.shape[0]

        def pack() -> Weight:
            rows = packed_filters(w, taps, count, 1, count)
            return Weight(blocked(rows, ((), ()), (1, 0), rows.shape))

        role = Packed(dtype, filters * count * dtype.itemsize, pack)
        return Filters(role, dtype, 1, filters, 0, packed=True)

    def _packed(self, part: Windows, taps: tuple[slice, slice, slice]) -> Filters:
        w, dtype = self.filters, self.node.inputs[1].tensor.dtype
        assert w is not None
        channels = padded_depth(part.channels, dtype) if part.channels > 1 else 1
        stride = padded_depth(part.tap_count * channels, dtype)

        def pack() -> Weight:
            factors = packed_factors(w, dtype, self.target)
            return Weight(packed_filters(factors, taps, part.tap_count, channels, stride))

        role = Packed(dtype, w.shape[0] * stride * dtype.itemsize, pack)
        return Filters(role, dtype, stride, channels, 1, packed=True)

    def _plain(self, part: Windows) -> Filters:
        dtype = self.node.inputs[1].tensor.dtype
        taps = part.tap_count
        return Filters(Read(1), dtype, part.channels * taps, 1, taps, packed=False)


def case_of(node: Node, target: CudaTarget, source: Form = Form.CHANNELS_LAST) -> Case | str | None:
    """Return a node as a case, or why it is none, or None for foreign operators."""
    op = node.op
    if not isinstance(op, Convolution | Deconvolution | QuantizedConvolution):
        return None
    x, w = node.inputs[0].tensor, node.inputs[1].tensor
    if not _LEAST_RANK <= x.rank <= _MOST_RANK:
        return f"images of {x.rank - 2} axes have no kernel"
    if not w.is_static:
        return "the sizes of the filters are not known"
    if not sizes_known(node, target.env):
        return "data decides a size"
    if any(0 in v.tensor.shape for v in (*node.inputs, node.output)):
        return "an operand is empty"
    needed = {Convolution: (), Deconvolution: (1,), QuantizedConvolution: (1, 2)}[type(op)]
    if any(constant(node.inputs[i]) is None for i in needed):
        return "filters and their scales must be constant"
    return Case(node, op, target, source)


def cases_in_both_forms(
    node: Node, target: CudaTarget, why_not: Callable[[Case], str]
) -> list[Case] | Reject | None:
    """Return a node as a case that reads a row-major image, and one with channels last.

    What ``why_not`` names is why it is none; None stands for foreign operators.
    """
    cases = []
    for form in (Form.PLAIN, Form.CHANNELS_LAST):
        case = case_of(node, target, form)
        if not isinstance(case, Case):
            return Reject(case) if isinstance(case, str) else None
        if why := why_not(case):
            return Reject(why)
        cases.append(case)
    return cases
