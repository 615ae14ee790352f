"""Programs of their own for optimization profiles whose likeliest sizes lie far apart.

The first program is tuned for the first profile and runs what any profile allows.  Another profile
gets one where that one's kernels would be the wrong ones.  On an H200 in f16, two 3x3 convolutions
took 142 us for a batch of 64 as tuned for a batch of 1, and 49 us as tuned for 64; two products of
512 rows with 1024 x 1024 weights 38.7 and 20.6 us.  On two cores of a CPU the convolutions took 2.5
times as long in the wrong program, products the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from lamina.builder import build_plan
from lamina.config import BuildConfig
from lamina.ir.graph import Graph
from lamina.plan.plan import PROFILE, Plan
from lamina.tensorrt.metadata import ProfileInfo, Range

_FAR = 4
"""How many times as many elements the likeliest shape of an input must have, or how many fewer."""


def tuned_apart(
    profiles: Sequence[ProfileInfo], shapes: Mapping[str, Range]
) -> dict[int, dict[str, Range]]:
    """Return the profiles that get programs of their own, with the shapes to build these for.

    ``shapes`` are those of the program for all profiles.
    """
    found: dict[int, dict[str, Range]] = {}
    for number, profile in enumerate(profiles[1:], 1):
        own = {name: profile.shapes.get(name, given) for name, given in shapes.items()}
        others = [shapes, *found.values()]
        if all(any(_is_far(own[name], other[name]) for name in own) for other in others):
            found[number] = own
    return found


def _is_far(a: Range, b: Range) -> bool:
    few, many = sorted((prod(a[1]), prod(b[1])))
    return many >= _FAR * max(few, 1)


def with_programs(
    plan: Plan,
    graph: Graph,
    options: BuildConfig,
    apart: Mapping[int, Mapping[str, Any]],
    monitor: Any,
) -> Plan:
    """Return a plan with another section for each of these profiles."""
    sections = list(plan.sections)
    for number, shapes in apart.items():
        tuned = build_plan(graph, replace(options, shapes=dict(shapes)), monitor).sections[0]
        sections.append(replace(tuned, target=(*tuned.target, (PROFILE, str(number)))))
    return replace(plan, sections=tuple(sections))
