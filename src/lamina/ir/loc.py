"""Where a value came from, kept through every rewrite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Loc:
    """A named place in the source model, or a fusion of several by a rule."""

    text: str
    parents: tuple[Loc, ...] = ()

    @staticmethod
    def fused(rule: str, *parents: Loc) -> Loc:
        """Return the location of something ``rule`` made out of ``parents``."""
        return Loc(rule, tuple(dict.fromkeys(parents)))

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

    def __str__(self) -> str:
        if not self.parents:
            return self.text
        return f"{self.text}({', '.join(map(str, self.parents))})"
