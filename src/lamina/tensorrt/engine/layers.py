"""The layers of a compiled engine: its steps, named after the layers that they came from."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lamina.plan.plan import Step, StepKind

_OPERATOR = re.compile(r" \(\w+\)$")
"""What importers add to the name of a node."""

_RULE = re.compile(r"^[A-Z]\w+\((.*)\)$", re.DOTALL)


def layer_names(steps: Sequence[Step]) -> list[str]:
    """Return a unique name for each step: its layers joined by `` + ``."""
    names: list[str] = []
    taken: dict[str, int] = {}
    for step in steps:
        name = node_name(step.loc) or step.name
        if step.name == "reorder":
            name = f"Reformatting CopyNode for {name}"
        count = taken.get(name, 0)
        taken[name] = count + 1
        names.append(f"{name} [{count}]" if count else name)
    return names


def node_name(loc: str) -> str:
    """Return the layers that a location names, joined by `` + ``."""
    return " + ".join(dict.fromkeys(sources(loc)))


def sources(loc: str) -> list[str]:
    """Return the layers that a location names, without the rules that joined them."""
    found = _RULE.match(loc)
    if found is None:
        name = _OPERATOR.sub("", loc)
        return [name] if name else []
    return [name for part in _split(found[1]) for name in sources(part)]


def _split(text: str) -> list[str]:
    """Split at the commas that stand outside all brackets."""
    parts, depth, begin = [], 0, 0
    for at, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            parts.append(text[begin:at].strip())
            begin = at + 1
    return [*parts, text[begin:].strip()]


_TYPES = {
    StepKind.HOST: "Host",
    StepKind.CALLBACK: "Plugin",
    StepKind.IF: "Conditional",
    StepKind.LOOP: "Loop",
}


def layer_type(step: Step) -> str:
    """Return the kind of a layer in the inspector's words."""
    if step.name == "reorder":
        return "Reformat"
    return _TYPES.get(step.kind, step.name)
