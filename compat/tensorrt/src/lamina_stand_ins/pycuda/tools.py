"""PyCUDA's tools, as far as programs for TensorRT use them."""

from __future__ import annotations

import pycuda.driver as cuda


def make_default_context() -> cuda.Context:
    """Return a context on the first device."""
    return cuda.Device(0).make_context()
