"""The timing cache: how long each tactic took for each problem on each machine, and what failed.

A readable JSON file, ``{"version": 1, "machines": {machine: {problem: {tactic: microseconds}}},
"failures": {machine: {toolchain: {problem: {tactic: reason}}}}}``.  Files merge: of two times for
one tactic the smaller counts, since noise only adds; a time counts more than a failure.  A failure
holds for the versions that it was seen with (the toolchain): others may do better.  The tactic
``*`` stands for all that are not listed: with it, a problem is not timed any further.  Behind a
tactic may stand ``#`` and the version of its kernels: times of other versions are not found.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

VERSION: Final = 1
OTHERS: Final = "*"
VERSIONED: Final = " #"
"""Stands between a tactic and the version of its kernels."""

Times = dict[str, dict[str, dict[str, float]]]
"""Microseconds by machine, problem and tactic."""
Failures = dict[str, dict[str, dict[str, dict[str, str]]]]
"""Reasons by machine, toolchain, problem and tactic."""

T = TypeVar("T")


@dataclass
class Contents:
    """What a cache file holds."""

    times: Times = field(default_factory=dict)
    failures: Failures = field(default_factory=dict)


class TimingCache:
    """Times by machine, problem and tactic; reads a file when made, writes it with ``save``.

    ``toolchain`` names the versions of what makes kernels: what failed with others may be tried
    again.  ``version`` gives the version of a tactic's kernels, "" for none.
    """

    def __init__(self, path: Path | None, machine: str, toolchain: str = "") -> None:
        self.path, self.machine, self.toolchain = path, machine, toolchain
        contents = Contents() if path is None else read_contents(path)
        self.times, self.failures = contents.times, contents.failures
        self.hits = self.misses = 0
        self.version: Callable[[str], str] = lambda _: ""
        self._changed = False

    def get(self, problem: str, tactic: str) -> float | None:
        """Return the microseconds of a tactic, or None when it was never timed here."""
        row = self.times.get(self.machine, {}).get(problem, {})
        found = row.get(self._versioned(tactic), row.get(OTHERS))
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def put(self, problem: str, tactic: str, microseconds: float) -> None:
        """Remember a time."""
        machine = self.times.setdefault(self.machine, {})
        machine.setdefault(problem, {})[self._versioned(tactic)] = round(microseconds, 3)
        self._changed = True

    def failure(self, problem: str, tactic: str) -> str | None:
        """Return why a tactic failed here with these versions, or None when it did not."""
        seen = self.failures.get(self.machine, {}).get(self.toolchain, {})
        return seen.get(problem, {}).get(self._versioned(tactic))

    def fail(self, problem: str, tactic: str, reason: str) -> None:
        """Remember that a tactic does not work, and why."""
        seen = self.failures.setdefault(self.machine, {}).setdefault(self.toolchain, {})
        seen.setdefault(problem, {})[self._versioned(tactic)] = reason
        self._changed = True

    def _versioned(self, tactic: str) -> str:
        version = self.version(tactic)
        return f"{tactic}{VERSIONED}{version}" if version else tactic

    def merge(self, other: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
        """Add the times of another cache; the smaller of two counts."""
        for machine, problems in other.items():
            mine = self.times.setdefault(machine, {})
            for problem, tactics in problems.items():
                row = mine.setdefault(problem, {})
                for tactic, microseconds in tactics.items():
                    row[tactic] = min(microseconds, row.get(tactic, microseconds))
        self._changed = True

    def merge_failures(
        self, other: Mapping[str, Mapping[str, Mapping[str, Mapping[str, str]]]]
    ) -> None:
        """Add the failures of another cache; of two reasons this one's own stays."""
        for machine, toolchains in other.items():
            for toolchain, problems in toolchains.items():
                mine = self.failures.setdefault(machine, {}).setdefault(toolchain, {})
                for problem, tactics in problems.items():
                    mine[problem] = {**tactics, **mine.get(problem, {})}
        self._changed = True

    def save(self) -> None:
        """Write the file if anything is new; what another process wrote meanwhile is kept.

        A place that cannot be written is no error: the cache is only a help.
        """
        if self.path is None or not self._changed:
            return
        meanwhile = read_contents(self.path)
        self.merge(meanwhile.times)
        self.merge_failures(meanwhile.failures)
        data: dict[str, Any] = {"version": VERSION, "machines": self.times}
        if self.failures:
            data["failures"] = self.failures
        text = json.dumps(data, sort_keys=True, indent=1)
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _write(self.path, text)
            self._changed = False


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".timing")
    try:
        with os.fdopen(handle, "w") as f:
            f.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_times(path: Path) -> Times:
    """Read the times of a cache file; a missing or damaged one counts as empty."""
    return read_contents(path).times


def read_contents(path: Path) -> Contents:
    """Read a cache file; a missing or damaged one counts as empty."""
    try:
        data = json.loads(path.read_text())
    except (OSError, RecursionError, ValueError):
        return Contents()
    if not isinstance(data, dict) or data.get("version") != VERSION:
        return Contents()
    return Contents(_times(data.get("machines")), _failures(data.get("failures")))


def _times(data: Any) -> Times:
    return _each(data, lambda problems: _each(problems, lambda row: _leaves(row, _microseconds)))


def _failures(data: Any) -> Failures:
    return _each(
        data,
        lambda toolchains: _each(
            toolchains, lambda problems: _each(problems, lambda row: _leaves(row, _reason))
        ),
    )


def _each(data: Any, read: Callable[[Any], T]) -> dict[str, T]:
    return {k: read(v) for k, v in data.items()} if isinstance(data, dict) else {}


def _leaves(data: Any, read: Callable[[Any], T | None]) -> dict[str, T]:
    """Return the entries of a table that mean something."""
    found = _each(data, read)
    return {k: v for k, v in found.items() if v is not None}


def _microseconds(x: Any) -> float | None:
    return float(x) if isinstance(x, int | float) and x >= 0 else None


def _reason(x: Any) -> str | None:
    return x if isinstance(x, str) else None
