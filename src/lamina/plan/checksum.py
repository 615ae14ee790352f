"""A fast checksum for large blobs."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

_CHUNK_WORDS = 1 << 16


def checksum(data: npt.NDArray[Any]) -> str:
    """Return 64 bits over the bytes of ``data``, as hexadecimal text.

    Each 512 KiB chunk gives the sum and the exclusive-or of its 64-bit words (any change of one
    word changes the sum); BLAKE2b over these and the tail's bytes gives the result.  This runs at
    memory bandwidth, which a cryptographic hash does not; it guards against damage, not malice.
    """
    flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    whole = flat.size // 8
    words = flat[: whole * 8].view(np.uint64) if flat.ctypes.data % 8 == 0 else None
    h = hashlib.blake2b(digest_size=8)
    h.update(flat.size.to_bytes(8, "little"))
    if words is None:
        words = np.frombuffer(flat[: whole * 8].tobytes(), np.uint64)
    for begin in range(0, whole, _CHUNK_WORDS):
        chunk = words[begin : begin + _CHUNK_WORDS]
        h.update(np.add.reduce(chunk).tobytes())
        h.update(np.bitwise_xor.reduce(chunk).tobytes())
    h.update(flat[whole * 8 :].tobytes())
    return h.hexdigest()
