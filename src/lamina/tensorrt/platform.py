"""The device that engines are built for and run on."""

from __future__ import annotations

from functools import lru_cache

from lamina import config
from lamina.errors import DeviceError
from lamina.runtime.engine import find_driver


@lru_cache(maxsize=1)
def device() -> str:
    """Return ``cuda`` where there is a GPU that Lamina can use, else ``cpu``.

    ``LAMINA_TENSORRT_DEVICE`` overrides this.
    """
    chosen = config.tensorrt_device()
    if chosen:
        return chosen
    try:
        return "cpu" if find_driver("cuda", 0).missing else "cuda"
    except (DeviceError, ImportError):
        return "cpu"
