"""TensorRT's Python API, made of Lamina; see ``lamina.tensorrt``."""

from __future__ import annotations

import sys
from typing import Any

from lamina_stand_ins import cudart_library

import lamina.tensorrt as tensorrt

sys.modules[f"{__name__}.tensorrt"] = tensorrt

cudart_library.preload()


def __getattr__(name: str) -> Any:
    # Which names there are follows the version that lamina.tensorrt.use chooses.
    try:
        return getattr(tensorrt, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(tensorrt)})


__all__ = tensorrt.__all__
