"""Ranges for INT8 from the cache of an earlier calibration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lamina.errors import ConfigError
from lamina.tensorrt.calibration.calibrators import IInt8EntropyCalibrator2


class CacheCalibrator(IInt8EntropyCalibrator2):
    """A calibrator that has a cache and no data."""

    def __init__(self, path: Path) -> None:
        """Take the file; raises ConfigError when it cannot be read."""
        super().__init__()
        try:
            self._cache = path.read_bytes()
        except OSError as e:
            raise ConfigError(f"cannot read the calibration cache {str(path)!r}: {e}") from e

    def get_batch_size(self) -> int:
        """Return 1."""
        return 1

    def get_batch(self, names: Sequence[str]) -> list[int] | None:
        """Return no batch."""
        return None

    def read_calibration_cache(self) -> bytes:
        """Return the contents of the file."""
        return self._cache

    def write_calibration_cache(self, cache: bytes) -> None:
        """Keep the file as it is."""
