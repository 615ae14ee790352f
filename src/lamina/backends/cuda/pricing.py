"""What the best kernels of operators take, as far as passes ask before kernels are chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from lamina.backends.cuda.measure import Measurer
from lamina.backends.cuda.problems import problem_key
from lamina.backends.cuda.selection import enumerate_candidates
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.graph import Node
from lamina.passes.fusion import Price, Trial
from lamina.tactics.cache import TimingCache
from lamina.tactics.candidate import Tactic
from lamina.tactics.choices import Choices, describe


@dataclass
class Pricing:
    """Prices of nodes by problem, timed where there is a device; each problem is looked at once."""

    measurer: Measurer
    tactics: Sequence[Tactic[CudaTarget]]
    level: int
    _known: dict[str, Price | None] = field(default_factory=dict)
    _whole: float = 0.0
    """What is estimated for the operators that were priced first."""

    def ahead(
        self,
        nodes: Sequence[Node],
        trials: Sequence[Trial],
        most: Callable[[Sequence[float]], float],
    ) -> None:
        """Time everything at once: asked for part by part, cores and device would wait more.

        A trial is timed whose estimate is below ``most``, by those of its parts.
        """
        offered = self._offered([*nodes, *(t.fused for t in trials)])
        limits: dict[str, float] = dict.fromkeys(map(self._key, nodes), inf)
        for t in trials:
            parts = [min(offered[self._key(n)].microseconds, default=0.0) for n in t.parts]
            key, limit = self._key(t.fused), most(parts)
            if min(offered[key].microseconds, default=inf) < limit:
                limits[key] = max(limit, limits.get(key, 0.0))
        known = {k: found for k, found in offered.items() if k in limits and found.candidates}
        self._time(known, limits, Counter(map(self._key, nodes)))

    def prices(self, nodes: Sequence[Node], most: Sequence[float]) -> list[Price | None]:
        """Return what the best kernel of each node takes, for those estimated below ``most``."""
        keys = [self._key(n) for n in nodes]
        unknown = [n for n, key in zip(nodes, keys, strict=True) if key not in self._known]
        offered, limits = self._offered(unknown), dict(zip(keys, most, strict=True))
        near = {k: c for k, c in offered.items() if min(c.microseconds, default=inf) < limits[k]}
        self._time(near, limits, Counter(keys))
        return [self._known.get(key) for key in keys]

    def _key(self, node: Node) -> str:
        return problem_key(node, self.measurer.target)

    def _offered(self, nodes: Sequence[Node]) -> dict[str, Choices]:
        """Return the candidates for each problem."""
        target = self.measurer.target
        first: dict[str, Node] = {}
        for n in nodes:
            first.setdefault(self._key(n), n)
        return {
            k: enumerate_candidates(n, target, self.tactics, self.level) for k, n in first.items()
        }

    def _time(
        self, offered: Mapping[str, Choices], limits: Mapping[str, float], counts: Counter[str]
    ) -> None:
        times = {k: max(1, counts[k]) * min(found.microseconds) for k, found in offered.items()}
        self._whole = self._whole or sum(us for k, us in times.items() if counts[k])
        whole = max(self._whole, 1e-9)
        worth = {k: (limits[k], us / whole) for k, us in times.items()}
        self.measurer.measure(list(offered.values()), worth)
        for key, found in offered.items():
            self._known[key] = _price(key, found, self.measurer.cache)


def _price(problem: str, offered: Choices, cache: TimingCache) -> Price | None:
    if not offered.candidates:
        return None
    known = [us for c in offered.candidates if (us := cache.get(problem, describe(c))) is not None]
    estimates = [c.estimate_microseconds for c in offered.candidates]
    return Price(min(known, default=None), min(estimates))
