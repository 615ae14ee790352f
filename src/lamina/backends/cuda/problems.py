"""What is timed: problems by name, and candidates that are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from lamina.backends.cuda.target import CudaTarget
from lamina.codegen.layout import Layout
from lamina.config import LIBRARIES
from lamina.ir.dims import evaluate
from lamina.ir.graph import Node, Value
from lamina.tactics.candidate import Candidate, Placement
from lamina.tactics.signature import signature

_FIRST: Final = 3
"""Configurations of each tactic that are timed first."""


def problem_key(node: Node, target: CudaTarget, placement: Placement | None = None) -> str:
    """Return what decides the time of a node: operator, types, likeliest sizes.

    With a ``placement`` the key also has the strides of what is a part of a larger value.
    """
    values = (*node.inputs, *node.outputs)
    types = [str(v.type.substitute(dict(target.env))) for v in values]
    key = f"{signature(node.op)}({', '.join(types)})" + (" tf32" if target.tf32 else "")
    if placement is None:
        return key
    layouts = (*placement.operands, *placement.results)
    strides = [_strides(v, at, target.env) for v, at in zip(values, layouts, strict=True)]
    return f"{key} in place({', '.join(strides)})"


def _strides(v: Value, at: Layout, env: Mapping[str, int]) -> str:
    if not has_gaps(v, at):
        return "dense"
    return f"[{','.join(str(evaluate(s, env)) for s in at.strides)}]"


def has_gaps(v: Value, at: Layout) -> bool:
    """Whether a value does not fill the memory from its first to its last element."""
    return at.span(v.tensor.shape) - at.offset != v.tensor.size and not at.is_blocked


def is_library(c: Candidate) -> bool:
    """Whether a candidate is a library's work, by the name of its tactic."""
    return c.tactic.split(" ")[0].split("-")[0] in LIBRARIES


def forms_of(c: Candidate) -> tuple[Any, ...]:
    """Return the forms that a candidate reads and writes."""
    return (c.reads, c.writes)


def family_of(c: Candidate) -> tuple[Any, ...]:
    """Return what configurations of one tactic with the same forms have in common."""
    return (c.tactic.split(" ")[0], *forms_of(c))


def first_of_each(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the most promising candidates of each family; they come in the order of estimates."""
    counts: dict[Any, int] = {}
    found = []
    for c in candidates:
        counts[family_of(c)] = counts.get(family_of(c), 0) + 1
        if counts[family_of(c)] <= _FIRST:
            found.append(c)
    return found
