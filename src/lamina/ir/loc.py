"""Where a value came from, kept through every rewrite."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

_DEEPEST: Final = 8


@dataclass(frozen=True)
class Loc:
    """A named place in the source model, or a fusion of several by a rule."""

    text: str
    parents: tuple[Loc, ...] = ()
    depth: int = field(default=0, compare=False)

    @staticmethod
    def fused(rule: str, *parents: Loc) -> Loc:
        """Return the location of something ``rule`` made out of ``parents``.

        After a few fusions the names in the source model alone are kept.
        """
        depth = 1 + max((p.depth for p in parents), default=0)
        if depth > _DEEPEST:
            names = dict.fromkeys(name for p in parents for name in p.sources())
            return Loc(rule, tuple(map(Loc, names)), 1)
        return Loc(rule, tuple(dict.fromkeys(parents)), depth)

    def sources(self) -> Iterator[str]:
        """Yield the names in the source model, in order, each once."""
        seen: set[str] = set()
        stack = [self]
        while stack:
            loc = stack.pop()
            if loc.parents:
                stack.extend(reversed(loc.parents))
            elif loc.text not in seen:
                seen.add(loc.text)
                yield loc.text

    def comes_from(self, names: Collection[str]) -> bool:
        """Whether one of the sources is named; the ``(Operator)`` of importers may be left out."""
        return bool(names) and any(
            s in names or s.rpartition(" (")[0] in names for s in self.sources()
        )

    def __str__(self) -> str:
        if not self.parents:
            return self.text
        return f"{self.text}({', '.join(map(str, self.parents))})"
