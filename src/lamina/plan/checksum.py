"""A fast checksum for large blobs."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

_ROW_WORDS: Final = 512
_CHUNK_ROWS: Final = 256


def checksum(data: npt.NDArray[Any]) -> str:
    """Return 64 bits over the bytes of ``data``, as hexadecimal text.

    The 64-bit words of each 1 MiB chunk form a matrix; BLAKE2b over the sums of its rows and of
    its columns, and over the bytes that are left, gives the result.  A changed word changes a sum,
    and a word at another place changes the sum of a row or of a column.  This runs at memory
    bandwidth, which a cryptographic hash does not; it guards against damage, not malice.
    """
    flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    row_bytes = _ROW_WORDS * 8
    whole = flat.size // row_bytes * row_bytes
    words = flat[:whole]
    if flat.ctypes.data % 8:
        words = np.frombuffer(words.tobytes(), np.uint8)
    rows = words.view(np.uint64).reshape(-1, _ROW_WORDS)
    h = hashlib.blake2b(digest_size=8)
    h.update(flat.size.to_bytes(8, "little"))
    for begin in range(0, len(rows), _CHUNK_ROWS):
        chunk = rows[begin : begin + _CHUNK_ROWS]
        h.update(np.add.reduce(chunk, axis=0).tobytes())
        h.update(np.add.reduce(chunk, axis=1).tobytes())
    h.update(flat[whole:].tobytes())
    return h.hexdigest()
