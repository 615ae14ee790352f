"""Stand-ins for the vendor's libraries, which work in host memory."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from tests.backends.cuda import fake_cudnn

from lamina.backends.cuda.library.cublaslt import CublasLt
from lamina.backends.cuda.library.cublaslt_api import Api
from lamina.backends.cuda.library.cudnn import Cudnn
from lamina.backends.cuda.simulated import SimulatedDevice


@functools.cache
def _shared_object() -> ctypes.CDLL | None:
    """Compile the stand-in for libcublasLt; None without a C compiler."""
    if (compiler := shutil.which("gcc")) is None:
        return None
    source = Path(__file__).with_name("fake_cublaslt.c")
    with tempfile.TemporaryDirectory() as folder:
        made = str(Path(folder) / "libcublasLt.so")
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", made, str(source), "-lm"]
        subprocess.run(command, check=True)
        return ctypes.CDLL(made)


def fake_cublaslt() -> CublasLt:
    """Return cuBLASLt's stand-in, or skip the test where it cannot be compiled."""
    made = _shared_object()
    if made is None:
        pytest.skip("the stand-in for libcublasLt needs gcc")
    return CublasLt(SimulatedDevice(), Api(made))


@functools.cache
def stand_in(name: str) -> CublasLt | Cudnn:
    """Return the stand-in for a library by the name that plans have for it."""
    if name == "cudnn":
        return Cudnn(SimulatedDevice(), fake_cudnn)
    return fake_cublaslt()
