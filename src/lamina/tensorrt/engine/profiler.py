"""Times of layers."""

from __future__ import annotations

import sys


class IProfiler:
    """Is told the time of each layer; subclass it and define ``report_layer_time``."""

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        """Take the milliseconds of one layer."""
        raise NotImplementedError(f"{type(self).__name__} must define report_layer_time")


class Profiler(IProfiler):
    """Writes the time of each layer to standard output."""

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        """Write one line."""
        sys.stdout.write(f"{layer_name}: {ms}ms\n")
        sys.stdout.flush()


__all__ = ["IProfiler", "Profiler"]
