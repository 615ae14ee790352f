"""The text in which calibration results are kept.

A first line names version and algorithm, each further one a tensor with its scale (range / 127) as
the hexadecimal digits of a big-endian 32-bit float.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

_NAMES = {
    "LEGACY_CALIBRATION": "LegacyCalibration",
    "ENTROPY_CALIBRATION": "EntropyCalibration",
    "ENTROPY_CALIBRATION_2": "EntropyCalibration2",
    "MINMAX_CALIBRATION": "MinMaxCalibration",
}
_LARGEST = 127.0


def write(ranges: Mapping[str, float], algorithm: str, version: str) -> bytes:
    """Return the text for the ranges of tensors."""
    major, minor, patch = (int(part) for part in version.split(".")[:3])
    number = major * (10000 if major >= 10 else 1000) + minor * 100 + patch
    lines = [f"TRT-{number}-{_NAMES[algorithm]}"]
    for name, amax in ranges.items():
        lines.append(f"{name}: {struct.pack('>f', amax / _LARGEST).hex()}")
    return ("\n".join(lines) + "\n").encode()


def read(data: bytes, algorithm: str) -> dict[str, float] | None:
    """Return the ranges in a text; None for another algorithm's or something else."""
    lines = data.decode(errors="replace").splitlines()
    if not lines or not re.fullmatch(rf"TRT-\d+-{_NAMES[algorithm]}", lines[0].strip()):
        return None
    ranges = {}
    for line in lines[1:]:
        found = re.fullmatch(r"(.*): ([0-9a-fA-F]{8})", line.strip())
        if found is None:
            return None
        (scale,) = struct.unpack(">f", bytes.fromhex(found[2]))
        ranges[found[1]] = scale * _LARGEST
    return ranges
