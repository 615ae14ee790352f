"""What the user implements to calibrate."""

from __future__ import annotations

from typing import Any, ClassVar

from lamina.tensorrt.enums import CalibrationAlgoType
from lamina.tensorrt.foundation.interface import IVersionedInterface


class IInt8Calibrator(IVersionedInterface):
    """Feeds calibration with batches and keeps its results; subclass one of the kinds below.

    ``get_batch`` gets the names of the inputs and returns the address of each one's batch, on the
    device that engines run on (the host where that is the CPU), or None when there is no more.
    """

    _algorithm: ClassVar[str] = "MINMAX_CALIBRATION"

    def get_batch_size(self) -> int:
        """Return the number of items in a batch."""
        return 1

    def get_batch(self, names: list[str]) -> Any:
        """Return addresses, or None at the end."""
        raise NotImplementedError(f"{type(self).__name__} must define get_batch(names)")

    def read_calibration_cache(self) -> Any:
        """Return what ``write_calibration_cache`` was given before, or None."""
        return None

    def write_calibration_cache(self, cache: Any) -> None:
        """Keep the results of a calibration (bytes)."""

    def get_algorithm(self) -> CalibrationAlgoType:
        """Return how histograms become ranges."""
        return CalibrationAlgoType.named(self._algorithm)


class IInt8LegacyCalibrator(IInt8Calibrator):
    """The range that all but one in ten thousand elements lie in."""

    _algorithm = "LEGACY_CALIBRATION"


class IInt8EntropyCalibrator(IInt8Calibrator):
    """The range that loses least information."""

    _algorithm = "ENTROPY_CALIBRATION"


class IInt8EntropyCalibrator2(IInt8Calibrator):
    """The range that loses least information."""

    _algorithm = "ENTROPY_CALIBRATION_2"


class IInt8MinMaxCalibrator(IInt8Calibrator):
    """The range that all elements lie in."""

    _algorithm = "MINMAX_CALIBRATION"


__all__ = [
    "IInt8Calibrator",
    "IInt8EntropyCalibrator",
    "IInt8EntropyCalibrator2",
    "IInt8LegacyCalibrator",
    "IInt8MinMaxCalibrator",
]
