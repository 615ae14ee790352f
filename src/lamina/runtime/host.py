"""Host steps: operators that run through their NumPy meaning.

Operators are read from their text form when the first host step runs; a plan without host steps
never imports them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lamina.errors import ExecutionError, GraphError, PlanError
from lamina.plan.plan import Program

if TYPE_CHECKING:
    from lamina.ir.graph import Node


class HostSteps:
    """The host steps of a program, read on first use."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._nodes: dict[int, Node] = {}

    def run(self, step: int, operands: Sequence[Any], env: dict[str, int]) -> list[Any]:
        """Evaluate step number ``step``; symbols that its operands' contents give go to ``env``."""
        node = self._nodes.get(step)
        if node is None:
            node = self._nodes[step] = read_step(self.program.steps[step].spec)
        arrays = [_plain(x) for x in operands]
        if len(arrays) != len(node.inputs):
            raise PlanError(f"{node.op.name} takes {len(node.inputs)} operands, got {len(arrays)}")
        known: Mapping[str, Any] = env
        try:
            env.update(node.op.binds(*arrays))
            result = node.op.substitute(known).reference(*arrays)
        except (ArithmeticError, LookupError, TypeError, ValueError) as e:
            raise ExecutionError(f"{node.op.name} failed: {type(e).__name__}: {e}") from e
        return list(result) if isinstance(result, tuple) else [result]


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
