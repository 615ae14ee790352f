"""Finds the shared objects of the vendor's libraries."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib import metadata

from lamina.errors import DeviceError


def open_shared_object(
    stem: str, versions: Sequence[int], packages: Sequence[str], fix: str
) -> ctypes.CDLL:
    """Return ``stem.so.N`` for the first N of ``versions`` that is here.

    It is searched for in installed Python packages, which keep their libraries out of the
    loader's sight, then where the loader looks.  Raises DeviceError with ``fix`` as the hint.
    """
    names = [f"{stem}.so.{n}" for n in versions]
    reasons = []
    for place in (*_packaged(names, packages), *names):
        try:
            return ctypes.CDLL(place)
        except OSError as e:
            reasons.append(str(e))
    raise DeviceError(f"{names[0]} cannot be loaded: {reasons[0]}", hint=fix)


def _packaged(names: Sequence[str], packages: Sequence[str]) -> list[str]:
    """Return the files of the packages that have one of the names."""
    found = []
    for package in packages:
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            continue
        found += [str(f.locate()) for f in files if f.name in names]
    return found
