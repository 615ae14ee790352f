"""The problem of a library step, read from its description in the plan.

The description is ``{"library": name, "problem": {...}}``, with ``"plan": n`` where blob n of the
section holds the algorithm as the library wrote it down.  Sizes in a problem may be dimensions with
symbols, written ``{"$": "b*128"}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from lamina.errors import GraphError, PlanError, where
from lamina.ir.dims import Expr, evaluate, parse_dim
from lamina.plan.plan import Program, Section, Step, StepKind

_SIZE: Final = "$"


@dataclass(frozen=True)
class LibraryStep:
    """What a step asks of a library; ``names`` say what each of its tensors is in the problem."""

    library: str
    problem: Mapping[str, Any]
    names: tuple[str, ...]
    tensors: tuple[int, ...]
    plan: bytes

    def sized(self, env: Mapping[str, int]) -> dict[str, Any]:
        """Return the problem with numbers for all sizes."""
        return sized(self.problem, env)


def sized(problem: Mapping[str, Any], env: Mapping[str, int]) -> dict[str, Any]:
    """Return a problem with numbers for all sizes."""
    return {k: evaluate(v, env) if isinstance(v, Expr) else v for k, v in problem.items()}


def write_spec(library: str, problem: Mapping[str, Any], plan: int | None) -> str:
    """Return the description of a step; ``plan`` is the number of a blob."""
    written: dict[str, Any] = {
        k: {_SIZE: str(v)} if isinstance(v, Expr) else v for k, v in problem.items()
    }
    spec: dict[str, Any] = {"library": library, "problem": written}
    return json.dumps(spec | ({} if plan is None else {"plan": plan}), sort_keys=True)


def read_library_steps(section: Section, program: Program) -> dict[int, LibraryStep]:
    """Read the library steps of a program, by their numbers; PlanError for a damaged one."""
    steps = enumerate(program.steps)
    return {i: _read(section, s) for i, s in steps if s.kind is StepKind.PRIMITIVE}


def _read(section: Section, step: Step) -> LibraryStep:
    with where(f"in step {step.name} ({step.tactic}) from {step.loc}"):
        try:
            spec = json.loads(step.spec)
            library, number = str(spec["library"]), spec.get("plan")
            problem = {str(k): _value(v) for k, v in spec["problem"].items()}
            plan = b"" if number is None else section.blobs[number].array.tobytes()
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, GraphError) as e:
            raise PlanError(
                f"the description of a library step is damaged: {type(e).__name__} {e}"
            ) from e
        if any(t < 0 for t in step.arguments) or len(step.names) != len(step.arguments):
            raise PlanError("the description of a library step is damaged: an operand has no name")
        return LibraryStep(library, problem, step.names, step.arguments, plan)


def _value(written: Any) -> Any:
    return parse_dim(written[_SIZE]) if isinstance(written, dict) else written
