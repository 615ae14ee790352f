"""Describes the machine and the versions that a result was measured with."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform
import time
from typing import Any

from lamina.cli.others import OthersWatch

PACKAGES = ("lamina", "numpy", "onnx", "onnxruntime", "openvino", "onednn-cpu-gomp", "llvmlite")

# The flags that decide which kernels the engines choose.
FLAGS = (
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni"),
    *("amx_bf16", "amx_int8"),
)


def describe() -> dict[str, Any]:
    """Return processor, cores, flags, system, date and package versions, ready for JSON."""
    info = _cpuinfo()
    present = info.get("flags", "").split()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": info.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in present],
        "family_model": f"{info.get('cpu family', '?')}/{info.get('model', '?')}",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": _versions(),
    }


def wait_for_quiet(limit_seconds: float, cores: float = 0.1, window_seconds: float = 2.0) -> bool:
    """Wait until others use less than ``cores``; return False when the limit came first."""
    end = time.perf_counter() + limit_seconds
    while time.perf_counter() < end:
        others = OthersWatch()
        time.sleep(window_seconds)
        if others.cores() < cores:
            return True
    return False


def _cpuinfo() -> dict[str, str]:
    file = pathlib.Path("/proc/cpuinfo")
    if not file.exists():
        return {}
    first = file.read_text().split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in first)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
