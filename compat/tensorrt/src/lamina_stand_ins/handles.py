"""Streams and events of a device that does everything at once."""

from __future__ import annotations

import itertools
import threading
import time

_numbers = itertools.count(0x1000)
_lock = threading.Lock()
_streams: set[int] = set()
_events: dict[int, float] = {}


def new_stream() -> int:
    """Return the handle of a new stream."""
    with _lock:
        handle = next(_numbers)
        _streams.add(handle)
    return handle


def is_stream(handle: int) -> bool:
    """Whether a handle is a stream; 0 to 2 are the default streams."""
    return handle in _streams or 0 <= handle <= 2


def end_stream(handle: int) -> bool:
    """Give a stream back; returns whether it existed."""
    with _lock:
        known = handle in _streams
        _streams.discard(handle)
    return known


def new_event() -> int:
    """Return the handle of a new event."""
    with _lock:
        handle = next(_numbers)
        _events[handle] = 0.0
    return handle


def is_event(handle: int) -> bool:
    """Whether a handle is an event."""
    return handle in _events


def record(handle: int) -> bool:
    """Let an event happen; returns whether it exists."""
    if handle not in _events:
        return False
    _events[handle] = time.perf_counter()
    return True


def milliseconds(begin: int, end: int) -> float | None:
    """Return the time between two events, None unless both have happened."""
    first, last = _events.get(begin), _events.get(end)
    return (last - first) * 1e3 if first and last else None


def end_event(handle: int) -> bool:
    """Give an event back; returns whether it existed."""
    with _lock:
        return _events.pop(handle, None) is not None
