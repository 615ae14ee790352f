"""A context on the first device, made by the import."""

from __future__ import annotations

import pycuda.driver as cuda

cuda.init()
device = cuda.Device(0)
context = device.make_context()
