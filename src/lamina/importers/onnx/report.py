"""What an import found out about every node of a model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum


class Support(StrEnum):
    """How a node of the source model is handled."""

    NATIVE = "native"
    PLUGIN = "plugin"
    FUNCTION = "function"
    HOST = "host"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True)
class NodeReport:
    """One node of the source model; ``reason`` says why it is not native."""

    name: str
    op_type: str
    domain: str
    support: Support
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """Every node of a model with how it is handled, in the order of import."""

    nodes: tuple[NodeReport, ...]

    @property
    def unsupported(self) -> tuple[NodeReport, ...]:
        """Return the nodes that stop the model from being used."""
        return tuple(n for n in self.nodes if n.support is Support.UNSUPPORTED)

    @property
    def counts(self) -> dict[Support, int]:
        """Return how many nodes are handled in each way."""
        found = Counter(n.support for n in self.nodes)
        return {support: found[support] for support in Support}

    def __str__(self) -> str:
        lines = [", ".join(f"{count} {support}" for support, count in self.counts.items())]
        for node in self.nodes:
            if node.support is not Support.NATIVE:
                lines.append(f"  {node.support}: {node.name}: {node.reason}".rstrip(": "))
        return "\n".join(lines)
