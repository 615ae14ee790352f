"""What trtexec prints before it begins: the options, the device and the versions."""

from __future__ import annotations

import os
import re

import lamina
from lamina.backends.cpu.features import cpu_features, cpu_name
from lamina.backends.cuda import device as devices
from lamina.cli.trtexec.arguments import GROUPS, Arguments, Option
from lamina.cli.trtexec.console import Console
from lamina.config import default_threads
from lamina.errors import DeviceError
from lamina.runtime.engine import find_driver
from lamina.tensorrt import platform
from lamina.tensorrt.persona import current

_MIB = 1 << 20
_LABELS = {
    "memPoolSize": "Memory Pools",
    "avgTiming": "avgTiming",
    "calib": "Calibration",
    "versionCompatible": "Version Compatible",
    "saveEngine": "Save engine",
    "loadEngine": "Load engine",
    "profilingVerbosity": "Profiling verbosity",
    "tacticSources": "Tactic sources",
    "timingCacheFile": "timingCacheFile",
    "errorOnTimingCacheMiss": "errorOnTimingCacheMiss",
    "builderOptimizationLevel": "BuilderOptimizationLevel",
    "maxAuxStreams": "MaxAuxStreams",
    "maxTactics": "MaxTactics",
    "allowWeightStreaming": "Weight Streaming",
    "markDebug": "Debug Tensors",
    "inputIOFormats": "Input(s)s format",
    "outputIOFormats": "Output(s)s format",
    "shapes": "Input inference shapes",
    "infStreams": "Inference Streams",
    "sleepTime": "Sleep time",
    "idleTime": "Idle time",
    "useProfile": "Optimization Profile Index",
    "loadInputs": "Inputs",
    "saveDebugTensors": "Debug Tensor Save Destinations",
    "avgRuns": "Averages",
    "percentile": "Percentiles",
    "dumpRefit": "Dump refittable layers",
    "dumpOutput": "Dump output",
    "dumpProfile": "Profile",
    "exportTimes": "Export timing to JSON file",
    "exportOutput": "Export output to JSON file",
    "exportProfile": "Export profile to JSON file",
    "useDLACore": "DLACore",
}


def title(words: list[str]) -> str:
    """Return what the first and the last line say about this run."""
    numbers = [*current().version.split("."), "0"]
    major, minor, patch = (int(n) for n in numbers[:3])
    version = f"{major}{minor:02}{patch:02}" if major > 8 else f"{major}{minor}{patch:02}"
    return f"TensorRT.trtexec [TensorRT v{version}] [b{numbers[3]}] # {' '.join(words)}"


def print_options(console: Console, a: Arguments) -> None:
    """Print every option of each group."""
    for name, group in GROUPS.items():
        console.info(f"=== {name} Options ===")
        if name == "Model":
            console.info("Format: ONNX" if a.has("onnx") else "Format: *")
            console.info(f"Model: {a.text('onnx')}")
            continue
        if name == "Build":
            console.info(f"Precision: {_precision(a)}")
        for option in group:
            if not option.ignored and option.name != "help":
                console.info(f"{_label(option)}: {_shown(a, option)}")
    console.info()
    for line in a.ignored():
        console.warning(line)


def _label(option: Option) -> str:
    """Return what an option is called in the report: as trtexec does, else in its own words."""
    if option.name in _LABELS:
        return _LABELS[option.name]
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", option.name)
    return words[0].upper() + words[1:]


def _shown(a: Arguments, option: Option) -> str:
    if not option.takes:
        return "Enabled" if a.has(option.name) else "Disabled"
    values = a.given.get(option.name, {})
    return "; ".join(values.values()) if values else option.default


def _precision(a: Arguments) -> str:
    if a.has("stronglyTyped") or current().major == "11":
        return "Strongly Typed"
    names = [
        n.upper() for n in ("fp16", "bf16", "int8", "fp8", "int4") if a.has(n) or a.has("best")
    ]
    return "+".join(["FP32", *names])


def print_device(console: Console) -> None:
    """Print what the engine runs on; raises DeviceError for a GPU that is chosen and not there."""
    console.info("=== Device Information ===")
    if platform.device() == "cuda":
        _print_gpu(console)
    else:
        console.warning("No GPU is used: the engine is built for the CPU and timed on it.")
        console.info(f"Selected Device: {cpu_name()}")
        console.info(f"Instruction sets: {', '.join(sorted(cpu_features()))}")
        console.info(f"Threads: {default_threads()} of {os.cpu_count()} cores")
    console.info()
    console.info(f"TensorRT version: {current().version} (Lamina {lamina.__version__})")


def _print_gpu(console: Console) -> None:
    driver = find_driver(platform.place(), 0)
    if driver.missing:
        raise DeviceError(driver.missing)
    device: devices.Device = driver.device  # type: ignore[attr-defined]
    with devices.current(device):
        _, total = device.memory_info()
        facts = device.facts()
    console.info(f"Selected Device: {device.model}")
    console.info(f"Selected Device ID: {device.ordinal}")
    console.info(f"Compute Capability: {device.arch // 10}.{device.arch % 10}")
    console.info(f"SMs: {facts.multiprocessors}")
    console.info(f"Device Global Memory: {total // _MIB} MiB")
    console.info(f"Shared Memory per SM: {facts.shared_bytes >> 10} KiB")
    ecc = "enabled" if facts.ecc else "disabled"
    console.info(f"Memory Bus Width: {facts.bus_bits} bits (ECC {ecc})")
    console.info(f"Application Compute Clock Rate: {facts.clock_khz / 1e6:.6g} GHz")
    console.info(f"Application Memory Clock Rate: {facts.memory_clock_khz / 1e6:.6g} GHz")
