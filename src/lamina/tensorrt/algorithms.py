"""Lets an IAlgorithmSelector choose among tactics."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from lamina.errors import BuildError
from lamina.ir.dims import evaluate
from lamina.ir.graph import Node, Value
from lamina.ir.types import TensorType
from lamina.tactics.candidate import constant
from lamina.tactics.choices import describe
from lamina.tactics.form import BLOCK, Form, layout
from lamina.tactics.policy import Offer, Sizes
from lamina.tensorrt.engine.algorithm_selector import (
    IAlgorithm,
    IAlgorithmContext,
    IAlgorithmIOInfo,
    IAlgorithmVariant,
)
from lamina.tensorrt.engine.layers import node_name
from lamina.tensorrt.enums import DataType
from lamina.tensorrt.foundation.dims import Dims
from lamina.tensorrt.foundation.dtype import from_ir
from lamina.tensorrt.timing_cache import tactic_number


class SelectorAdapter:
    """Shows nodes and candidates to a selector of the user's as contexts and algorithms.

    With ``reject_empty`` a selector that chooses nothing makes the build fail.
    """

    def __init__(self, selector: Any, *, reject_empty: bool) -> None:
        self._selector, self._reject_empty = selector, reject_empty
        self._names: dict[Node, str] = {}
        self._taken: dict[str, int] = {}

    def select(self, node: Node, offers: Sequence[Offer], sizes: Sizes) -> Sequence[int]:
        """Return what ``select_algorithms`` chooses; raises BuildError when it fails."""
        context = self._context(node, sizes)
        choices = [_algorithm(node, offer, sizes) for offer in offers]
        try:
            picked = [int(i) for i in self._selector.select_algorithms(context, choices)]
        except Exception as e:
            raise BuildError(
                f"select_algorithms failed for {context.name!r}: {type(e).__name__}: {e}"
            ) from e
        if not picked and self._reject_empty:
            raise BuildError(
                f"select_algorithms chose none of the {len(choices)} algorithms of "
                f"{context.name!r}",
                hint="return at least one, or clear the flag REJECT_EMPTY_ALGORITHMS",
            )
        return picked

    def report(self, chosen: Sequence[tuple[Node, Offer]], sizes: Sizes) -> None:
        """Call ``report_algorithms``; raises BuildError when it fails."""
        contexts = [self._context(node, sizes) for node, _ in chosen]
        choices = [_algorithm(node, offer, sizes) for node, offer in chosen]
        try:
            self._selector.report_algorithms(contexts, choices)
        except Exception as e:
            raise BuildError(f"report_algorithms failed: {type(e).__name__}: {e}") from e
        self._names.clear()  # another profile's program begins anew
        self._taken.clear()

    def _context(self, node: Node, sizes: Sizes) -> IAlgorithmContext:
        inputs = _operands(node)
        shapes = [_shapes(v, sizes) for v in (*inputs, *node.outputs)]
        return IAlgorithmContext(self._name(node), shapes, len(inputs))

    def _name(self, node: Node) -> str:
        """Return the layers of a node, with a number where several nodes come from the same."""
        if node not in self._names:
            name = node_name(str(node.loc)) or node.op.name
            count = self._taken.get(name, 0)
            self._taken[name] = count + 1
            self._names[node] = f"{name} [{count}]" if count else name
        return self._names[node]


def _operands(node: Node) -> list[Value]:
    """Return the operands that are no constants."""
    return [v for v in node.inputs if constant(v) is None]


def _shapes(v: Value, sizes: Sizes) -> list[Dims]:
    """Return [min, opt, max] of the first eight axes; sizes that only data tells are -1."""
    return [Dims(_shape(v, sizes, i)[: Dims.MAX_DIMS]) for i in range(3)]


def _shape(v: Value, sizes: Sizes, which: int) -> tuple[int, ...]:
    if not isinstance(v.type, TensorType):
        return ()
    known = v.type.substitute({name: range[which] for name, range in sizes.items()})
    return tuple(d if isinstance(d, int) else -1 for d in known.shape)


def _algorithm(node: Node, offer: Offer, sizes: Sizes) -> IAlgorithm:
    c = offer.candidate
    given = zip(c.reads, node.inputs, strict=True)
    reads = [form or Form.PLAIN for form, v in given if constant(v) is None]
    ports = [
        _port(v, form, sizes)
        for v, form in zip((*_operands(node), *node.outputs), (*reads, *c.writes), strict=True)
    ]
    family = c.tactic.split(" ")[0]
    return IAlgorithm(
        IAlgorithmVariant(tactic_number(family), tactic_number(describe(c))),
        ports,
        (offer.microseconds or 0.0) / 1000,
        offer.workspace_bytes,
    )


def _port(v: Value, form: Form, sizes: Sizes) -> IAlgorithmIOInfo:
    """Return how a value lies for the likeliest sizes; strides count vectors where there are any.

    A value of a type that TensorRT lacks is shown as FLOAT.
    """
    dtype = DataType.named("FLOAT")
    if isinstance(v.type, TensorType):
        with suppress(KeyError):
            dtype = from_ir(v.type.dtype)
    shape = _shape(v, sizes, 1)
    if -1 in shape or len(shape) > Dims.MAX_DIMS or not isinstance(v.type, TensorType):
        return IAlgorithmIOInfo(dtype, Dims((-1,) * min(len(shape), Dims.MAX_DIMS)))
    where = layout(v.type.with_shape(shape), form)
    strides = [evaluate(s, {}) for s in where.strides]
    if form == Form.BLOCKED:
        vectors = Dims([s // BLOCK for s in strides])
        return IAlgorithmIOInfo(dtype, vectors, 1, BLOCK, "CHW16")
    name = "LINEAR" if form == Form.PLAIN else "DHWC" if len(shape) == 5 else "HWC"
    return IAlgorithmIOInfo(dtype, Dims(strides), _format=name)
