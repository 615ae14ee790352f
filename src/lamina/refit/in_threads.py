"""Work shared among threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")


def in_threads(call: Callable[[T], object], items: Iterable[T], threads: int) -> None:
    """Call for each item, in so many threads, of which the caller's is one.

    Raises what the first call raises that does; what has not begun by then is left out.
    """
    left, errors = deque(items), list[BaseException]()

    def work() -> None:
        while left and not errors:
            with suppress(IndexError):
                item = left.popleft()  # unless another thread took the last one
                try:
                    call(item)
                except BaseException as e:
                    errors.append(e)

    others = max(0, min(threads, len(left)) - 1)
    begun = [_pool(threads).submit(work) for _ in range(others)]
    work()
    wait(begun)
    if errors:
        raise errors[0]


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return threads that are there already: to start some takes as long as a small refit."""
    return ThreadPoolExecutor(threads, thread_name_prefix="lamina-refit")
