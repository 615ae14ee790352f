"""Who runs the members of a team: an OpenMP runtime, or a pool of our own threads."""

from __future__ import annotations

import ctypes
import threading
import weakref
from typing import Final

import numpy as np

from lamina.backends.cpu.image import LoadedImage
from lamina.backends.cpu.native import POOL_MEMBER, PoolWord, Words, address, aligned_zeros
from lamina.backends.cpu.onednn.library import OPENMP_NAME

_TEAM_FUNCTIONS: Final = {
    "PARALLEL": "GOMP_parallel",
    "THREAD_NUMBER": "omp_get_thread_num",
    "TEAM_SIZE": "omp_get_num_threads",
}
_FUTEX, _WAKE_PRIVATE, _ALL = 202, 129, 2**31 - 1


def openmp_functions() -> dict[str, int]:
    """Return the addresses of the OpenMP functions that run teams; empty where there are none."""
    try:
        runtime = ctypes.CDLL(OPENMP_NAME)
        functions = {word: runtime[name] for word, name in _TEAM_FUNCTIONS.items()}
    except (AttributeError, OSError):
        return {}
    return {w: ctypes.cast(f, ctypes.c_void_p).value or 0 for w, f in functions.items()}


class ThreadPool:
    """Threads that wait in a code image for the step loop's teams; closed with its last user.

    A child process that was forked has no threads of its parent: as with OpenMP, it has to load
    its engines itself.
    """

    def __init__(self, image: LoadedImage, threads: int) -> None:
        self.words: Words = aligned_zeros((len(PoolWord) * 8,), np.int64)
        self.words[PoolWord.MEMBERS] = threads - 1
        member = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(image.address(POOL_MEMBER))
        members = [
            threading.Thread(
                target=member, args=(address(self.words), i), name=f"lamina-{i}", daemon=True
            )
            for i in range(1, threads)
        ]
        for thread in members:
            thread.start()
        weakref.finalize(self, _close, self.words, members, image)

    @property
    def address(self) -> int:
        """Return where the pool's words are."""
        return address(self.words)


def _close(words: Words, members: list[threading.Thread], image: LoadedImage) -> None:
    """End the threads; ``image``, whose code they run, lives until then."""
    words[PoolWord.CLOSED] = 1
    words[PoolWord.GENERATION] += 1
    system_call = ctypes.CDLL(None).syscall
    system_call(
        ctypes.c_long(_FUTEX), ctypes.c_void_p(address(words)), ctypes.c_int(_WAKE_PRIVATE),
        ctypes.c_int(_ALL),
    )  # fmt: skip
    for thread in members:
        thread.join()
