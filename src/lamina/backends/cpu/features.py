"""What this CPU can do, read from the system without a compiler."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

_FEATURES: Final = (
    "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd",
    "avx512vnni", "avx512bf16", "avx512vbmi", "avx512fp16", "avxvnni", "amx_tile",
)  # fmt: skip
_LINUX_NAMES: Final = {
    "avx512_vnni": "avx512vnni",
    "avx512_bf16": "avx512bf16",
    "avx512_fp16": "avx512fp16",
    "avx_vnni": "avxvnni",
}


@cache
def cpu_features() -> frozenset[str]:
    """Return the instruction sets of this CPU, by LLVM's names."""
    words = _field("flags").split()
    return frozenset(_LINUX_NAMES.get(w, w) for w in words) & frozenset(_FEATURES)


@cache
def cpu_name() -> str:
    """Return the CPU's name for people."""
    return _field("model name") or "unknown"


def _field(name: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
