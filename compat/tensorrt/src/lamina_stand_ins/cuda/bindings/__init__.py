"""Stand-in for CUDA's Python bindings: memory, streams and events in host memory."""

from __future__ import annotations

from lamina_stand_ins import choice

__version__ = "13.0.0"
__path__ = choice.package_path("cuda.bindings")
