"""The packages below ``cuda``: those of CUDA's Python bindings, or stand-ins without a GPU.

This is a module, and not a package, so that it never shares a file with a real ``cuda`` package.
"""

from __future__ import annotations

from lamina_stand_ins import choice

__path__ = choice.package_path("cuda")
