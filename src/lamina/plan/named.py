"""The weights of a plan by the names that they have in its model."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np

from lamina.errors import GraphError, PlanError
from lamina.ir.parse import parse_type, parse_value
from lamina.ir.types import TensorType
from lamina.ir.weight import Weight, weight_text
from lamina.plan.plan import Plan

_NAMED: Final = re.compile(
    r" = const\(\) type=(\S+) (digest=\S+|value=\S+) name=(\"(?:[^\"\\]|\\.)*\")"
)


@dataclass(frozen=True)
class Named:
    """A named weight as the text of a graph shows it."""

    type: TensorType
    text: str

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The element type."""
        return self.type.dtype.numpy

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return self.type.static_shape


class NamedWeights(Mapping[str, Weight]):
    """The named weights of a plan; contents are read when they are asked for."""

    def __init__(self, plan: Plan) -> None:
        if not plan.graph:
            raise PlanError(
                "the plan has no portable graph, so its weights have no names",
                hint="build it again with keep_graph=True",
            )
        self._plan = plan
        self.described = _described(plan.graph)

    def __getitem__(self, name: str) -> Weight:
        if name in self._plan.renewed:
            return self._plan.renewed[name]
        named = self.described[name]
        kind, _, text = named.text.partition("=")
        if kind == "value":
            return Weight(parse_value(text, named.dtype).reshape(named.shape), name)
        if text not in self._plan.weights:
            raise PlanError(
                f"the plan was saved without weight {name!r}", hint="give it with engine.refit"
            )
        return self._plan.weights[text]

    def __contains__(self, name: object) -> bool:
        return name in self.described

    def __iter__(self) -> Iterator[str]:
        return iter(self.described)

    def __len__(self) -> int:
        return len(self.described)


@lru_cache(maxsize=4)
def _described(graph: str) -> dict[str, Named]:
    found: dict[str, Named] = {}
    try:
        for type_text, text, name in _NAMED.findall(graph):
            type_ = parse_type(type_text)
            if isinstance(type_, TensorType) and type_.is_static:
                found.setdefault(str(json.loads(name)), Named(type_, text))
    except (GraphError, ValueError) as e:
        raise PlanError(f"the portable graph of the plan is damaged: {e}") from e
    return found


def settled(plan: Plan) -> Plan:
    """Return an equal plan whose graph shows the weights that a refit gave it."""
    if not plan.renewed:
        return plan
    weights = dict(plan.weights)

    def replaced(found: re.Match[str]) -> str:
        weight = plan.renewed.get(json.loads(found[3]))
        if weight is None:
            return found[0]
        text = weight_text(weight)
        if text.startswith("digest="):
            weights[weight.digest] = weight
        return f" = const() type={found[1]} {text} name={found[3]}"

    graph = _NAMED.sub(replaced, plan.graph)
    used = set(re.findall(r"digest=([0-9a-f]+)", graph))
    kept = {digest: w for digest, w in weights.items() if digest in used}
    return dataclasses.replace(plan, graph=graph, weights=kept, renewed={})
