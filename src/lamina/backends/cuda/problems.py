"""What is timed: problems by name, and candidates that are alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, Final

from lamina.backends.cuda.target import CudaTarget
from lamina.codegen.layout import Layout
from lamina.config import LIBRARIES
from lamina.ir.dims import evaluate
from lamina.ir.graph import Node, Value
from lamina.tactics.candidate import Candidate, Placement
from lamina.tactics.signature import signature

_FEW: Final = 3

ROUNDS: Final = ((1, inf, 0.0), (_FEW, 1.1, 0.003), (1 << 30, 1.02, 0.02))
"""Rounds of timing: how many configurations of each tactic are timed in a round or earlier, how
many times the best time of all that of the tactic may be until then, and the share of all layers'
time from which on a layer is worth it.  Replayed on 5,300 times of nine networks on an H200, a
quarter fewer kernels (half for large batches) than with three and all others of tactics within 1.1,
for layers that are 0.1 % slower in all; shares cost another 0.2 %."""

_NEAR_LIBRARY: Final = 1.3
"""How many times the best time a library's first may be for the next two of its engines: it says no
more of them than an order, and cuDNN may take 0.2 s to plan each."""

_NEAR_FORMS: Final = 1.2
"""How many times the best time the best for given forms may be for further rounds."""

_NEAR_LIMIT: Final = 0.87
"""Share of what a kernel is estimated at, at most, to be worth a look, that its time must reach."""


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


def first_of_each(candidates: Sequence[Candidate], most: int) -> list[Candidate]:
    """Return the ``most`` promising candidates of each family; they come in that order."""
    counts: dict[Any, int] = {}
    found = []
    for c in candidates:
        counts[family_of(c)] = counts.get(family_of(c), 0) + 1
        if counts[family_of(c)] <= most:
            found.append(c)
    return found


def worth_timing(
    candidates: Sequence[Candidate],
    number: int,
    known: Callable[[Candidate], float | None],
    limit: float = inf,
    share: float = 1.0,
) -> list[Candidate]:
    """Return what is to be timed until round ``number``, by the ``known`` times of earlier rounds.

    The other configurations of a tactic follow where its best one is close to the best for the same
    forms, and those forms are close to the best of all; and those of a tactic that nothing is known
    of, as what was tried first failed.  A kernel that is far from its ``limit`` gets no more.
    ``share`` is that of the layers in the time of all.
    """
    found = first_of_each(candidates, ROUNDS[0][0])
    libraries = {family_of(c) for c in candidates if is_library(c)}
    for most, near, least_share in ROUNDS[1 : number + 1]:
        best: dict[Any, float] = {}
        times: dict[Any, float] = {}
        for c in found:
            us = known(c)
            if us is not None:
                best[forms_of(c)] = min(us, best.get(forms_of(c), us))
                times[family_of(c)] = min(us, times.get(family_of(c), us))
        least = min(best.values(), default=0.0)
        if share < least_share or least > _NEAR_LIMIT * limit:
            break
        close = {forms for forms, us in best.items() if us <= _NEAR_FORMS * least}
        going = set()
        for f, us in times.items():
            factor = _NEAR_LIBRARY if f in libraries and most == _FEW else near
            if f[1:] in close and us <= factor * best[f[1:]]:
                going.add(f)
        going |= {family_of(c) for c in candidates} - times.keys()
        timed = {id(c) for c in found}
        more = first_of_each(candidates, most)
        found = [c for c in more if family_of(c) in going or id(c) in timed]
    return found
