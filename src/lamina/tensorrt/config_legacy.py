"""Options that older versions have: INT8 calibration, algorithm selection, workspace size."""

from __future__ import annotations

from typing import Any

from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import QuantizationFlag
from lamina.tensorrt.option import Option, bits, names
from lamina.tensorrt.profile import IOptimizationProfile


class LegacyChoices:
    """Options of IBuilderConfig that version 11 does not have."""

    min_timing_iterations = Option(int, 1, "Least number of measurements of a tactic.")

    _pools: dict[str, int]

    def _start_legacy(self) -> None:
        self._calibrator: Any = None
        self._selector: Any = None
        self._calibration_profile: IOptimizationProfile | None = None
        self._quantization_flags: set[str] = set()

    @property
    def int8_calibrator(self) -> Any:
        """What feeds calibration with data, an IInt8Calibrator."""
        return self._calibrator

    @int8_calibrator.setter
    def int8_calibrator(self, value: Any) -> None:
        self._calibrator = value

    @property
    def algorithm_selector(self) -> Any:
        """What chooses among tactics, an IAlgorithmSelector."""
        return self._selector

    @algorithm_selector.setter
    def algorithm_selector(self, value: Any) -> None:
        self._selector = value

    @property
    def max_workspace_size(self) -> int:
        """Limit of the workspace pool in bytes."""
        return self._pools["WORKSPACE"]

    @max_workspace_size.setter
    @checked
    def max_workspace_size(self, value: int) -> None:
        self._pools["WORKSPACE"] = value

    @checked
    def set_calibration_profile(self, profile: IOptimizationProfile) -> bool:
        """Choose the shapes for calibration."""
        self._calibration_profile = profile
        return True

    def get_calibration_profile(self) -> IOptimizationProfile | None:
        """Return the shapes for calibration, None when none were set."""
        return self._calibration_profile

    @property
    def quantization_flags(self) -> int:
        """Bits of QuantizationFlag."""
        return bits(QuantizationFlag.named(n) for n in self._quantization_flags)

    @quantization_flags.setter
    @checked
    def quantization_flags(self, value: int) -> None:
        self._quantization_flags = set(names(QuantizationFlag, value))

    @checked
    def set_quantization_flag(self, flag: QuantizationFlag) -> None:
        """Set a flag of calibration."""
        self._quantization_flags.add(flag.name)

    @checked
    def clear_quantization_flag(self, flag: QuantizationFlag) -> None:
        """Clear a flag of calibration."""
        self._quantization_flags.discard(flag.name)

    @checked
    def get_quantization_flag(self, flag: QuantizationFlag) -> bool:
        """Whether a flag of calibration is set."""
        return flag.name in self._quantization_flags
