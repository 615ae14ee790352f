"""Rewrite rules, whole-graph passes and pipelines of both."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from lamina.errors import LaminaError, where
from lamina.ir.graph import Graph, Op, Value
from lamina.ir.pattern import Match as Match
from lamina.ir.pattern import Pat as Pat
from lamina.ir.pattern import Reject as Reject
from lamina.ir.pattern import anything as anything
from lamina.ir.pattern import either as either
from lamina.ir.pattern import match as match

log = logging.getLogger(__name__)


@dataclass
class RuleStatistics:
    """What one rule did during a build."""

    hits: int = 0
    seconds: float = 0.0
    declined: dict[str, int] = field(default_factory=dict)


class GraphPass:
    """A transformation of a whole graph.

    The docstring of a subclass shows one graph Before and After, in the text form of the IR; the
    tests run it.  ``after`` names passes that must come earlier in a pipeline.  ``NESTED`` says
    whether it also runs in the bodies of control flow and regions.
    """

    after: ClassVar[tuple[type[GraphPass], ...]] = ()
    NESTED: ClassVar[bool] = True

    def __init__(self) -> None:
        self.statistics = RuleStatistics()

    @property
    def name(self) -> str:
        """Return the name by which users leave this pass out."""
        return type(self).__name__

    def run(self, graph: Graph) -> int:
        """Transform ``graph`` in place; return the number of changes."""
        raise NotImplementedError

    def __call__(self, graph: Graph) -> int:
        """Run, here and in nested graphs, and keep statistics."""
        begin = time.perf_counter()
        with where(f"in pass {self.name}"):
            graphs = _with_nested(graph) if self.NESTED else [graph]
            count = sum(self.run(g) for g in graphs)
        self.statistics.hits += count
        self.statistics.seconds += time.perf_counter() - begin
        return count


class Rewrite(GraphPass):
    """One local rewrite: ``pattern`` finds it, ``check`` admits it, ``replace`` builds it.

    ``check`` may refuse with a reason; it must not raise.
    """

    pattern: ClassVar[Pat]

    def check(self, m: Match) -> bool | Reject:
        """Decide whether the match may be rewritten."""
        return True

    def replace(self, m: Match) -> Value:
        """Return the value that takes the place of the matched one."""
        raise NotImplementedError

    def run(self, graph: Graph) -> int:
        """Rewrite until nothing matches."""
        total = 0
        while count := self._sweep(graph):
            total += count
        return total

    def _sweep(self, graph: Graph) -> int:
        count = 0
        roots = _roots(self.pattern)
        for node in list(graph.nodes()):
            if roots and not isinstance(node.op, roots):
                continue
            for output in node.outputs:
                if graph.uses(output) and self.apply(graph, output) is not None:
                    count += 1
        return count

    def apply(self, graph: Graph, value: Value) -> Value | None:
        """Rewrite ``value`` when the pattern matches there; return what took its place.

        A replacement of another type (shapes that are equal but cannot be proved so) is declined.
        """
        m = Match(self.name, graph)
        if not m.bind(self.pattern, value):
            return None
        try:
            verdict = self.check(m)
            if not verdict:
                reason = verdict.reason if isinstance(verdict, Reject) else "declined"
                self._decline(value, reason)
                return None
            new = self.replace(m)
        except LaminaError as e:
            e.where.append(f"at {value.node}")
            raise
        if new is value:
            self._decline(value, "nothing to change")
            return None
        if new.type != value.type:
            graph.erase_dead(new)
            self._decline(value, "the types differ")
            return None
        new.name = new.name or value.name
        graph.replace(value, new)
        return new

    def _decline(self, value: Value, reason: str) -> None:
        self.statistics.declined[reason] = self.statistics.declined.get(reason, 0) + 1
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s declined %s: %s", self.name, value.node, reason)


class Fixpoint(GraphPass):
    """Runs its passes in order, again and again, until none changes anything."""

    LIMIT: ClassVar[int] = 20

    def __init__(self, *passes: GraphPass) -> None:
        super().__init__()
        self.passes: Sequence[GraphPass] = passes

    def __call__(self, graph: Graph) -> int:
        """Run to the fixed point (at most ``LIMIT`` rounds)."""
        total = 0
        for _ in range(self.LIMIT):
            count = sum(p(graph) for p in self.passes)
            total += count
            if not count:
                break
        return total


class Together(Fixpoint):
    """Runs local rewrites side by side: one sweep offers each node to every rule of its operator.

    Costs one traversal per sweep instead of one per rule, and lets a rule see at once what another
    made.  Rules that come first win where several match.
    """

    REPEATS: ClassVar[int] = 64  # rewrites in a row at one place; only a rule that loops gets there

    def __init__(self, *rules: Rewrite) -> None:
        super().__init__(*rules)
        self.table: dict[type[Op], list[Rewrite]] = {}
        for rule in rules:
            for op in _roots(rule.pattern):
                self.table.setdefault(op, []).append(rule)
            if not _roots(rule.pattern):
                raise ValueError(f"the pattern of {rule.name} begins with no operator")

    def __call__(self, graph: Graph) -> int:
        """Sweep, here and in nested graphs, until nothing matches (at most ``LIMIT`` times)."""
        total = 0
        for g in _with_nested(graph):
            for _ in range(self.LIMIT):
                count = self._sweep(g)
                total += count
                if not count:
                    break
        return total

    def _sweep(self, graph: Graph) -> int:
        count = 0
        for node in list(graph.nodes()):
            if type(node.op) not in self.table:
                continue
            for output in node.outputs:
                count += self._exhaust(graph, output)
        return count

    def _exhaust(self, graph: Graph, value: Value) -> int:
        for count in range(self.REPEATS):
            if value.node is None or not graph.uses(value):
                return count
            new = self._first(graph, value)
            if new is None:
                return count
            value = new
        return self.REPEATS

    def _first(self, graph: Graph, value: Value) -> Value | None:
        for rule in self.table.get(type(value.op), ()):  # type: ignore[arg-type]
            begin = time.perf_counter()
            new = rule.apply(graph, value)
            rule.statistics.seconds += time.perf_counter() - begin
            if new is not None:
                rule.statistics.hits += 1
                return new
        return None


class Pipeline:
    """An ordered, checked list of passes."""

    def __init__(self, *passes: GraphPass) -> None:
        self.passes: Sequence[GraphPass] = passes
        earlier: set[type[GraphPass]] = set()
        for p in self.rules():
            if missing := [a.__name__ for a in p.after if a not in earlier]:
                raise ValueError(f"{p.name} must come after {missing}")
            earlier.add(type(p))

    def rules(self) -> Iterator[GraphPass]:
        """Yield every pass, those inside fixpoints included."""
        for p in self.passes:
            yield from _leaves(p)

    def without(self, *names: str) -> Pipeline:
        """Return the same pipeline minus the named passes; raises ValueError for unknown names."""
        known = {p.name for p in self.rules()}
        if unknown := sorted(set(names) - known):
            raise ValueError(f"there is no pass {', '.join(unknown)}; there are {sorted(known)}")
        pipeline = Pipeline()
        pipeline.passes = _without(self.passes, frozenset(names))
        return pipeline

    def __call__(self, graph: Graph) -> None:
        """Run every pass in order."""
        for p in self.passes:
            p(graph)


def example_of(rule: GraphPass) -> tuple[str, str]:
    """Return the Before and After graphs of a pass's docstring, as text."""
    doc = inspect.cleandoc(type(rule).__doc__ or "")
    before = doc.partition("Before::")[2].partition("After::")[0]
    after = doc.partition("After::")[2]
    return inspect.cleandoc("\n" + before).strip(), inspect.cleandoc("\n" + after).strip()


def _with_nested(graph: Graph) -> Iterator[Graph]:
    for node in list(graph.nodes()):
        for nested in _nested(node.op):
            yield from _with_nested(nested)
    yield graph


def _leaves(p: GraphPass) -> Iterator[GraphPass]:
    if isinstance(p, Fixpoint):
        for q in p.passes:
            yield from _leaves(q)
    else:
        yield p


def _without(passes: Sequence[GraphPass], names: frozenset[str]) -> list[GraphPass]:
    kept: list[GraphPass] = []
    for p in passes:
        if isinstance(p, Fixpoint):
            kept.append(type(p)(*_without(p.passes, names)))
        elif p.name not in names:
            kept.append(p)
    return kept


def _nested(op: Op) -> list[Graph]:
    return [v for v in vars(op).values() if isinstance(v, Graph)] if vars(op) else []


def _roots(pattern: Pat) -> tuple[type[Op], ...]:
    if not pattern.alternatives:
        return pattern.ops
    roots = [_roots(p) for p in pattern.alternatives]
    return tuple(op for r in roots for op in r) if all(roots) else ()
