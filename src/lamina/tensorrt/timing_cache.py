"""Timing caches."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lamina.tactics.cache import OTHERS, VERSION, VERSIONED, TimingCache, read_times
from lamina.tensorrt.check import checked
from lamina.tensorrt.foundation.host_memory import IHostMemory

Times = dict[str, dict[str, dict[str, float]]]
_NEVER_MICROSECONDS = 1e9
"""The time of tactics that an edited entry rules out; they are not timed again."""


class TimingCacheKey:
    """128 bits that name an entry."""

    def __init__(self, digest: bytes) -> None:
        self._digest = digest

    @staticmethod
    def parse(text: str) -> TimingCacheKey:
        """Return the key for its text, hexadecimal after ``0x``; ValueError for other text."""
        digest = bytes.fromhex(text.removeprefix("0x"))
        if len(digest) != 16:
            raise ValueError(f"a timing cache key has 32 hexadecimal digits, got {text!r}")
        return TimingCacheKey(digest)

    def __str__(self) -> str:
        return "0x" + self._digest.hex()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TimingCacheKey) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)


class TimingCacheValue:
    """The tactic that an entry chose, and its time in milliseconds."""

    tacticHash = 0
    timingMSec = 0.0

    def __init__(self, tactic_hash: int = 0, timing_msec: float = 0.0) -> None:
        self.tacticHash = tactic_hash
        self.timingMSec = timing_msec


class ITimingCache:
    """Measured times of tactics; made by IBuilderConfig.create_timing_cache.

    The serialized form is a timing cache file of Lamina's: times by machine, problem and tactic.
    An entry is a problem.
    """

    def __init__(self, times: Times | None = None) -> None:
        self._times: Times = times or {}

    @classmethod
    def _read(cls, data: bytes) -> ITimingCache | None:
        """Return the cache that ``data`` holds (empty for no data); None for other data."""
        if not data:
            return cls()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "timing.json"
            path.write_bytes(data)
            times = read_times(path)
        return cls(times) if times or data == cls().serialize() else None

    def serialize(self) -> IHostMemory:
        """Return the contents as bytes."""
        content = {"version": VERSION, "machines": self._times}
        return IHostMemory(json.dumps(content, sort_keys=True).encode())

    @checked
    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        """Add the entries of another cache; False for other machines' unless ignored."""
        if not ignore_mismatch and self._times and input_cache._times.keys() - self._times.keys():
            return False
        merged = TimingCache(None, "")
        merged.times = self._times
        merged.merge(input_cache._times)
        return True

    def reset(self) -> bool:
        """Remove all entries."""
        self._times.clear()
        return True

    def _entries(self) -> Iterator[tuple[TimingCacheKey, dict[str, float]]]:
        for machine, problems in self._times.items():
            for problem, tactics in problems.items():
                yield _key(f"{machine} {problem}"), tactics

    def queryKeys(self) -> list[TimingCacheKey]:
        """Return the key of each entry."""
        return [key for key, _ in self._entries()]

    @checked
    def query(self, key: TimingCacheKey) -> TimingCacheValue:
        """Return the best tactic of an entry; a value of zeros when there is none."""
        for found, tactics in self._entries():
            if found == key and tactics:
                tactic = min(tactics, key=lambda t: tactics[t])
                return TimingCacheValue(tactic_number(tactic), tactics[tactic] / 1000)
        return TimingCacheValue()

    @checked
    def update(self, key: TimingCacheKey, value: TimingCacheValue) -> bool:
        """Let an entry have this tactic and time: builds then take it.

        False when there is no such entry, or no such tactic in it.
        """
        for found, tactics in self._entries():
            for tactic in tactics if found == key else ():
                if tactic_number(tactic) == value.tacticHash:
                    tactics.update(dict.fromkeys([*tactics, OTHERS], _NEVER_MICROSECONDS))
                    tactics[tactic] = value.timingMSec * 1000
                    return True
        return False


def _key(name: str) -> TimingCacheKey:
    return TimingCacheKey(hashlib.blake2b(name.encode(), digest_size=16).digest())


def tactic_number(tactic: str) -> int:
    """Return the 64 bits that name a tactic, whatever the version of its kernels."""
    tactic = tactic.partition(VERSIONED)[0]
    return int.from_bytes(hashlib.blake2b(tactic.encode(), digest_size=8).digest(), "little")


__all__ = ["ITimingCache", "TimingCacheKey", "TimingCacheValue"]
