"""What an engine says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lamina.plan.plan import Plan, Section, Step


@dataclass(frozen=True)
class LayerReport:
    """One layer: where it came from, how it runs, and what else was tried."""

    name: str
    loc: str
    kind: str
    tactic: str
    microseconds: float
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tried: tuple[tuple[str, float], ...]
    declined: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class EngineReport:
    """Layers, memory in bytes by use, target and what runs on the host."""

    layers: tuple[LayerReport, ...]
    memory: Mapping[str, int]
    target: Mapping[str, str]
    config: Mapping[str, str]
    fallbacks: tuple[str, ...] = field(default=())


def describe_engine(plan: Plan, section: Section, memory: Mapping[str, int]) -> EngineReport:
    """Return the report of a section of a plan."""
    tensors = section.program.tensors

    def text(number: int) -> str:
        t = tensors[number]
        return f"{t.type} {t.layout}"

    def layer(step: Step) -> LayerReport:
        return LayerReport(
            name=step.name,
            loc=step.loc,
            kind=step.kind.value,
            tactic=step.tactic,
            microseconds=step.microseconds,
            inputs=tuple(text(t) for t in step.reads),
            outputs=tuple(text(t) for t in step.writes),
            tried=tuple((m.tactic, m.microseconds) for m in step.tried),
            declined=step.declined,
        )

    return EngineReport(
        layers=tuple(layer(s) for s in section.program.steps),
        memory=dict(memory),
        target=dict(section.target),
        config=dict(plan.config),
        fallbacks=plan.fallbacks,
    )
