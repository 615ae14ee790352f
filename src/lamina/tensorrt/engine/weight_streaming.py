"""Weights that stay in host memory, where the memory of a GPU is short."""

from __future__ import annotations

import lamina.runtime.engine as runtime
from lamina.backends.cuda.device import Device, current
from lamina.plan.plan import Plan, Section
from lamina.runtime.driver import Driver
from lamina.tensorrt.check import checked
from lamina.tensorrt.error_reporting import Reporter
from lamina.tensorrt.metadata import EngineMetadata

_RESERVE_BYTES = 256 << 20
"""What an automatic budget leaves to code, results and other users of the GPU."""


class WeightStreaming:
    """The part of ICudaEngine that chooses how many weights stay on the GPU.

    The others lie in page-locked memory of the host, where kernels read them in every run.
    """

    _engine: runtime.Engine
    _metadata: EngineMetadata
    _reporter: Reporter

    @property
    def streamable_weights_size(self) -> int:
        """Bytes of weights that may stay on the host; 0 unless built with WEIGHT_STREAMING."""
        return weight_bytes(self._engine.section) if self._metadata.weight_streaming else 0

    @property
    def weight_streaming_budget_v2(self) -> int:
        """Bytes of weights that may lie on the GPU; from the size of all of them on, all do."""
        kept, all_bytes = self._engine.resident_bytes, self.streamable_weights_size
        return all_bytes if kept is None else min(kept, all_bytes)

    @weight_streaming_budget_v2.setter
    @checked
    def weight_streaming_budget_v2(self, value: int) -> None:
        if not self._metadata.weight_streaming:
            self._reporter.error(
                "the engine was built without WEIGHT_STREAMING: its weights stay on the device"
            )
            return
        if value < 0:
            self._reporter.error(f"the weight streaming budget {value} is negative")
            return
        all_of_them = value >= self.streamable_weights_size
        with self._reporter.reporting("the weight streaming budget stays as it was"):
            self._engine.stream_weights(None if all_of_them else value)

    @property
    def weight_streaming_budget(self) -> int:
        """The budget as version 10.0 counts it: 0 for all weights on the GPU, -1 to choose it."""
        return 0 if self._engine.resident_bytes is None else self.weight_streaming_budget_v2

    @weight_streaming_budget.setter
    @checked
    def weight_streaming_budget(self, value: int) -> None:
        if value == -1:
            value = self.get_weight_streaming_automatic_budget()
        self.weight_streaming_budget_v2 = value or self.streamable_weights_size

    @property
    def minimum_weight_streaming_budget(self) -> int:
        """Least budget that is allowed."""
        return 0

    def get_weight_streaming_automatic_budget(self) -> int:
        """Return the budget that the free memory of the GPU allows, beside one context."""
        engine = self._engine
        free = free_bytes(engine.driver)
        if free is None:
            return self.streamable_weights_size
        free += self.weight_streaming_budget_v2  # what the weights have now
        return min(self.streamable_weights_size, max(0, free - engine.arena_bytes()))

    @property
    def weight_streaming_scratch_memory_size(self) -> int:
        """Bytes that streaming needs beside the budget: none, as kernels read from the host."""
        return 0


def weight_bytes(section: Section) -> int:
    """Return the bytes of all constants of a section, as they are stored."""
    return sum(w.array.nbytes for w in section.blobs)


def free_bytes(driver: Driver) -> int | None:
    """Return the bytes of a GPU that weights may take, None on a CPU."""
    device: Device | None = getattr(driver, "device", None)
    if device is None:
        return None
    with current(device):
        free, _ = device.memory_info()
    return max(0, free - _RESERVE_BYTES)


def first_budget(plan: Plan, metadata: EngineMetadata, driver: Driver) -> int | None:
    """Return how many bytes of weights an engine begins with on a GPU; None for all of them."""
    free = free_bytes(driver) if metadata.weight_streaming else None
    fitting = [s for s in plan.sections if driver.refusal(s) is None]
    if free is None or not fitting or weight_bytes(fitting[0]) <= free:
        return None
    return free
