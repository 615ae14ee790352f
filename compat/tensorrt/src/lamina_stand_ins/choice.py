"""Whether there is a GPU, and so whether the real packages are used or the stand-ins."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

HERE = Path(__file__).parent


@lru_cache(maxsize=1)
def use_gpu() -> bool:
    """Whether engines run on a GPU: as ``LAMINA_TENSORRT_DEVICE`` says, else where there is one.

    Lamina reaches a GPU through ``cuda.bindings``, so that package must be there in any case.
    """
    folders = [Path(p) / "cuda" / "bindings" for p in sys.path]
    if not any((f / "__init__.py").exists() for f in folders):
        return False
    chosen = os.environ.get("LAMINA_TENSORRT_DEVICE", "")
    if chosen:
        return chosen.partition(":")[0] == "cuda" and not chosen.endswith(":simulated")
    return _count_gpus() > 0


def _count_gpus() -> int:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def package_path(package: str) -> list[str]:
    """Return where submodules of a package are looked for: without a GPU, here first.

    ``cuda`` is a namespace that several distributions share, so theirs follow.
    """
    tail = Path(*package.split("."))
    elsewhere = [str(Path(p or ".") / tail) for p in sys.path if (Path(p or ".") / tail).is_dir()]
    real = package.partition(".")[0] == "cuda" and use_gpu()
    return elsewhere if real else [str(HERE / tail), *elsewhere]


def find_elsewhere(package: str, here: Path) -> ModuleSpec | None:
    """Return an installed package of this name that lies in another folder."""
    others = [p for p in sys.path if Path(p or ".").resolve() != here.resolve()]
    return PathFinder.find_spec(package, others)
