"""The timing cache: how long each tactic took for each problem on each machine.

A readable JSON file, ``{"version": 1, "machines": {machine: {problem: {tactic: microseconds}}}}``.
Files merge: of two times for one tactic the smaller counts, since noise only adds.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

VERSION: Final = 1


class TimingCache:
    """Times by machine, problem and tactic; reads a file when made, writes it with ``save``."""

    def __init__(self, path: Path | None, machine: str) -> None:
        self.path, self.machine = path, machine
        self.times: dict[str, dict[str, dict[str, float]]] = {}
        self.hits = self.misses = 0
        self._changed = False
        if path is not None:
            self.times = read_times(path)

    def get(self, problem: str, tactic: str) -> float | None:
        """Return the microseconds of a tactic, or None when it was never timed here."""
        found = self.times.get(self.machine, {}).get(problem, {}).get(tactic)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def put(self, problem: str, tactic: str, microseconds: float) -> None:
        """Remember a time."""
        machine = self.times.setdefault(self.machine, {})
        machine.setdefault(problem, {})[tactic] = round(microseconds, 3)
        self._changed = True

    def merge(self, other: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
        """Add the times of another cache; the smaller of two counts."""
        for machine, problems in other.items():
            mine = self.times.setdefault(machine, {})
            for problem, tactics in problems.items():
                row = mine.setdefault(problem, {})
                for tactic, microseconds in tactics.items():
                    row[tactic] = min(microseconds, row.get(tactic, microseconds))
        self._changed = True

    def save(self) -> None:
        """Write the file if anything is new; what another process wrote meanwhile is kept.

        A place that cannot be written is no error: the cache is only a help.
        """
        if self.path is None or not self._changed:
            return
        self.merge(read_times(self.path))
        text = json.dumps({"version": VERSION, "machines": self.times}, sort_keys=True, indent=1)
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


def read_times(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Read a cache file; a missing or damaged one counts as empty."""
    try:
        data = json.loads(path.read_text())
    except (OSError, RecursionError, ValueError):
        return {}
    if not isinstance(data, dict) or data.get("version") != VERSION:
        return {}
    return _checked(data.get("machines"))


def _checked(data: Any) -> dict[str, dict[str, dict[str, float]]]:
    def entries(x: Any) -> Iterable[tuple[str, Any]]:
        return x.items() if isinstance(x, dict) else ()

    return {
        machine: {
            problem: {
                tactic: float(us)
                for tactic, us in entries(tactics)
                if isinstance(us, int | float) and us >= 0
            }
            for problem, tactics in entries(problems)
        }
        for machine, problems in entries(data)
    }
