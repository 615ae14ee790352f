"""Arrays from and to files."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from lamina.errors import InputError
from lamina.ir.types import DType

Array = npt.NDArray[Any]


def read_inputs(texts: Sequence[str]) -> dict[str, Array]:
    """Read ``NAME=FILE.npy``, ``NAME=FILE.npz``, or a ``FILE.npz`` that holds several by name.

    Of an npz file that is given a name, the array of that name counts, or its only one.  Raises
    InputError when a file cannot be read; nothing in a file is executed.
    """
    arrays: dict[str, Array] = {}
    for text in texts:
        name, equals, file = text.rpartition("=")
        if not equals and not text.endswith(".npz"):
            raise InputError(
                f"the input {text!r} has no name",
                hint="write NAME=FILE.npy, or FILE.npz with arrays by name",
            )
        found = _read(Path(file))
        arrays.update({name: _choose(found, name, file)} if equals else found)
    return arrays


def write_outputs(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays to an ``.npz`` file, or the only one to an ``.npy`` file; by rename.

    Raises InputError when they do not fit the file or the place cannot be written; then nothing
    half-written stays.
    """
    if path.suffix not in (".npy", ".npz"):
        raise InputError(f"cannot write {str(path)!r}: it must end in .npz or .npy")
    if path.suffix == ".npy" and len(arrays) != 1:
        raise InputError(f"an .npy file holds 1 array, there are {len(arrays)}", hint="use .npz")
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    storable = {name: _storable(name, a) for name, a in arrays.items()}
    try:
        with temporary.open("wb") as f:
            if path.suffix == ".npy":
                np.save(f, next(iter(storable.values())), allow_pickle=False)
            else:
                _write_npz(f, storable)
        temporary.replace(path)
    except OSError as e:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise InputError(
            f"cannot write {str(path)!r}: {e.strerror or e}", hint="check the folder and the space"
        ) from e


def _write_npz(file: BinaryIO, arrays: Mapping[str, Array]) -> None:
    """Write an npz file; unlike ``numpy.savez``, any name will do, ``file`` too."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _read(path: Path) -> dict[str, Array]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except OSError as e:
        raise InputError(
            f"cannot read {str(path)!r}: {e.strerror or e}", hint="check the path"
        ) from e
    except (ValueError, EOFError, zipfile.BadZipFile) as e:
        raise InputError(
            f"{str(path)!r} is not a NumPy file, or holds objects (pickled)",
            hint="write it with np.save or np.savez",
        ) from e


def _choose(found: Mapping[str, Array], name: str, file: str) -> Array:
    if name in found:
        return found[name]
    if len(found) != 1:
        raise InputError(
            f"{file!r} holds {len(found)} arrays, none is called {name!r}",
            hint=f"it has {sorted(found)}",
        )
    return next(iter(found.values()))


def _storable(name: str, value: Any) -> Array:
    """Widen what the npy format has no code for: bf16 and smaller become f32, strings ``U``."""
    if not isinstance(value, np.ndarray | np.generic):
        raise InputError(
            f"output {name!r} is a {type(value).__name__}, which NumPy files cannot hold"
        )
    array: Array = np.asarray(value)
    if array.dtype == object:
        array = array.astype(str)
        return array
    dtype = DType.of(array.dtype)
    if array.dtype.kind == "V" or dtype is DType.BF16 or dtype.bits < 8:
        array = array.astype(np.float32 if dtype.is_float else np.int8)
    return array
