"""Host steps: operators that run through their NumPy meaning.

Operators are read from their text form when the first host step runs; a plan without host steps
never imports them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lamina.errors import ExecutionError, GraphError, PlanError
from lamina.ir.attributes import attribute_symbols, substitute_attribute
from lamina.ir.dims import evaluate
from lamina.plan.plan import Place, Program, Tensor

if TYPE_CHECKING:
    from lamina.ir.graph import Node


class HostSteps:
    """The host steps of a program, read on first use."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._nodes: dict[int, Node] = {}
        self._views: dict[int, list[Tensor]] = {}

    def run(self, step: int, operands: Sequence[Any], env: dict[str, int]) -> list[Any]:
        """Evaluate step number ``step``; symbols that its operands' contents give go to ``env``."""
        node = self.node(step)
        arrays = [_plain(x) for x in operands]
        if len(arrays) != len(node.inputs):
            raise PlanError(f"{node.op.name} takes {len(node.inputs)} operands, got {len(arrays)}")
        known: Mapping[str, Any] = env
        try:
            bound = node.op.binds(*arrays)
            env.update(bound)
            result = node.op.substitute(known).reference(*arrays)
        except (ArithmeticError, LookupError, TypeError, ValueError) as e:
            raise ExecutionError(f"{node.op.name} failed: {type(e).__name__}: {e}") from e
        if bound:
            self._check_views(step, bound, env)
        return list(result) if isinstance(result, tuple) else [result]

    def _check_views(self, step: int, bound: Iterable[str], env: Mapping[str, int]) -> None:
        """Raise ExecutionError where sizes that data decides let a tensor leave its memory."""
        tensors = self.program.tensors
        if step not in self._views:
            names = set(bound)
            self._views[step] = [
                t for t in tensors if t.place is Place.VIEW and names & self._symbols(t)
            ]
        for t in self._views[step]:
            if not all(s in env for s in self._symbols(t)):
                continue
            base = tensors[t.index]
            size, offset, whole = (
                evaluate(d, env) for d in (t.size_bytes, t.offset, base.size_bytes)
            )
            if size < 0 or offset < 0 or offset + size > whole:
                type = substitute_attribute(t.type, env)
                raise ExecutionError(
                    f"data decides that {t.name!r} is {type}, {size} bytes of the {whole} bytes of "
                    f"{base.name!r}",
                    hint="look at the inputs that hold sizes",
                )

    def _symbols(self, view: Tensor) -> set[str]:
        dims = (view.size_bytes, view.offset, self.program.tensors[view.index].size_bytes)
        return {s for d in dims for s in attribute_symbols(d)}

    def node(self, step: int) -> Node:
        """Return the operator of step number ``step``, in a graph of its own."""
        if step not in self._nodes:
            self._nodes[step] = read_step(self.program.steps[step].spec)
        return self._nodes[step]


def read_step(text: str) -> Node:
    """Parse a graph of one node; raises PlanError for any other text."""
    ops = importlib.import_module("lamina.ops")
    text_form = importlib.import_module("lamina.ir.text")
    try:
        graph = text_form.parse_graph(text, ops.BY_NAME)
    except GraphError as e:
        raise PlanError(f"the description of a host step is damaged: {e}") from e
    node: Node | None = graph.outputs[0].node if graph.outputs else None
    if node is None:
        raise PlanError("the description of a host step holds no operator")
    return node


def _plain(x: Any) -> Any:
    """Give operators an array even where a caller passed a NumPy scalar."""
    return np.asarray(x) if isinstance(x, np.generic) else x
