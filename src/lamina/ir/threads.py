"""Threads that share the work on one large array."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lamina.config import default_threads

MOST_THREADS: Final = 8
LEAST_BYTES: Final = 1 << 20
"""New memory is slow to write for the first time, so threads share what is larger."""


@cache
def pool() -> ThreadPoolExecutor:
    """Threads that copy; a model has hundreds of weights, each of which would start its own."""
    return ThreadPoolExecutor(MOST_THREADS, "copy")


def cast(a: npt.NDArray[Any], dtype: npt.DTypeLike, threads: int = 0) -> npt.NDArray[Any]:
    """Return an array as another type, as ``astype`` does; a large one in threads (0: all)."""
    kind = np.dtype(dtype)
    if a.dtype == kind:
        return a
    if not isinstance(a, np.ndarray) or a.nbytes < LEAST_BYTES or min(a.strides) <= 0:
        return a.astype(kind)
    axis = int(np.argmax(a.strides))
    count = min(threads or default_threads(), MOST_THREADS, a.shape[axis])
    result = np.empty_like(a, kind)
    parts = [np.moveaxis(x, axis, 0) for x in (result, a)]
    bounds = [a.shape[axis] * i // count for i in range(count + 1)]
    warnings = np.geterr()  # each thread has its own

    def work(first: int, last: int) -> None:
        with np.errstate(**warnings):
            np.copyto(parts[0][first:last], parts[1][first:last], casting="unsafe")

    for done in [pool().submit(work, *pair) for pair in pairwise(bounds)]:
        done.result()
    return result
