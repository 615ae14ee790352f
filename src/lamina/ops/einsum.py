"""Sums of products in the notation of Einstein."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.dims import Dim
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import TensorType
from lamina.ops import check
from lamina.ops.accumulate import narrow, widen
from lamina.ops.broadcast import broadcast_dims, broadcast_shapes


@dataclass(frozen=True)
class EinsumTerms:
    """The subscripts of an equation, ``...`` for an ellipsis, with the result made explicit."""

    inputs: tuple[str, ...]
    output: str

    def __str__(self) -> str:
        return f"{','.join(self.inputs)}->{self.output}"


def parse_equation(equation: str) -> EinsumTerms:
    """Split an equation; without ``->`` the result has the labels that occur once, in order.

    Raises TypeMismatch for characters that are not labels.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    inputs = tuple(left.split(","))
    for term in (*inputs, right):
        if term.count("...") > 1 or not all(c.isalpha() for c in term.replace("...", "")):
            raise TypeMismatch(f"the equation {equation!r} has the malformed term {term!r}")
    if not arrow:
        counts = Counter(left.replace("...", "").replace(",", ""))
        once = "".join(sorted(label for label, n in counts.items() if n == 1))
        right = ("..." if "..." in left else "") + once
    return EinsumTerms(inputs, right)


@operator
class Einsum(Op):
    """Product of the operands, summed over every label that the result lacks."""

    equation: str

    def infer(self, *operands: TensorType) -> TensorType:
        """Return the sizes that the labels of the result stand for."""
        terms = parse_equation(self.equation)
        if len(terms.inputs) != len(operands):
            raise TypeMismatch(
                f"the equation {self.equation!r} has {len(terms.inputs)} terms for "
                f"{len(operands)} operands"
            )
        sizes: dict[str, Dim] = {}
        ellipsis: tuple[Dim, ...] = ()
        for i, (term, x) in enumerate(zip(terms.inputs, operands, strict=True)):
            check.arithmetic(f"operand {i}", x)
            check.same_dtype(f"operand {i}", x, "operand 0", operands[0])
            before, dots, after = term.partition("...")
            spread = x.rank - len(before) - len(after)
            if spread < 0 or (spread and not dots):
                raise TypeMismatch(f"the term {term!r} does not fit operand {i} of type {x}")
            ellipsis = broadcast_shapes(ellipsis, x.shape[len(before) : len(before) + spread])
            dims = (*x.shape[: len(before)], *x.shape[len(before) + spread :])
            for label, d in zip(before + after, dims, strict=True):
                sizes[label] = broadcast_dims(sizes.get(label, 1), d)
        return operands[0].with_shape(_result_shape(terms.output, sizes, ellipsis))

    def reference(self, *operands: Array) -> Array:
        """Apply numpy.einsum, halves in f32."""
        text = str(parse_equation(self.equation))
        with np.errstate(all="ignore"):
            y = np.einsum(text, *(widen(x) for x in operands), optimize=len(operands) > 1)
        return narrow(y, operands[0].dtype)


def _result_shape(output: str, sizes: dict[str, Dim], ellipsis: tuple[Dim, ...]) -> tuple[Dim, ...]:
    before, dots, after = output.partition("...")
    for label in before + after:
        if label not in sizes:
            raise TypeMismatch(f"the result has the label {label!r}, which no operand has")
    middle = ellipsis if dots else ()
    return (*(sizes[c] for c in before), *middle, *(sizes[c] for c in after))
