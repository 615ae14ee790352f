"""PyCUDA where it is installed and can be used, else a stand-in on ``cuda.bindings.runtime``.

This is a module, and not a package, so that it never shares a file with the real ``pycuda``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lamina_stand_ins import choice

_real = choice.find_elsewhere("pycuda", Path(__file__).parent) if choice.use_gpu() else None
if _real is not None and _real.loader is not None:
    __path__ = list(_real.submodule_search_locations or ())
    __file__ = _real.origin
    _real.loader.exec_module(sys.modules[__name__])
else:
    __path__ = choice.package_path("pycuda")
    VERSION = (2024, 1)
    VERSION_TEXT = "2024.1"
