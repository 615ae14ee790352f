"""The device that engines are built for and run on."""

from __future__ import annotations

from functools import lru_cache

from lamina import config
from lamina.backends.cuda import bindings
from lamina.errors import DeviceError
from lamina.runtime.engine import find_driver


def place() -> str:
    """Return where an engine is loaded: ``cpu``, or the GPU that is current in this thread.

    Programs choose that one with ``cudaSetDevice``, ``torch.cuda.set_device`` and the like.
    """
    if device() != "cuda":
        return device()
    try:
        number = bindings.current_ordinal()
    except DeviceError:  # loading says what is missing
        number = 0
    return f"cuda:{number}" if number else "cuda"


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
