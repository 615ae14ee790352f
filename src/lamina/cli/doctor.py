"""``lamina doctor``: the machine, the libraries, and whether a tiny network runs."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import typer

import lamina
from lamina.backends.cpu.driver import find_library
from lamina.backends.cpu.features import cpu_features, cpu_name
from lamina.cli import options as opt
from lamina.cli.differences import TOLERANCES, difference
from lamina.cli.peers import installed
from lamina.cli.tables import mark, print_json, show_bytes, show_seconds, stdout
from lamina.config import cache_folder, default_threads, isa_limit
from lamina.errors import LaminaError
from lamina.ir.interpret import interpret
from lamina.ir.text import parse_graph
from lamina.runtime.engine import find_driver

_NEEDED: Final = ("numpy", "onnx", "ml_dtypes", "typer", "rich")
_OPTIONAL: Final = {
    "onnxruntime": ("for --compare and compare --against", "onnxruntime"),
    "openvino": ("for bench --compare", "openvino"),
    "triton": ("compiles kernels for GPUs", "'lamina[cuda]'"),
    "cuda-bindings": ("runs plans on GPUs", "'lamina[cuda]'"),
    "nvidia-cublas": ("cuBLASLt's kernels for GPUs", "'lamina[cuda-libraries]'"),
    "nvidia-cudnn-frontend": ("cuDNN's kernels for GPUs", "'lamina[cuda-libraries]'"),
}
"""What each package adds, and what ``pip`` installs to have it in a version that fits."""
_TINY: Final = """graph(%x: f32[1,8,12,12]) {
  %w = const() type=f32[16,8,3,3] seed=1
  %y = convolution(%x, %w) strides=(1,1) dilations=(1,1) pads_begin=(1,1) pads_end=(1,1)
  %a = activation(%y) kind=relu
  %r = reshape(%a) shape=(1,2304)
  %m = const() type=f32[2304,10] seed=2
  %z = matmul(%r, %m)
  return %z
}"""


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``good`` is None for what is only worth knowing."""

    subject: str
    good: bool | None
    fact: str
    fix: str = ""


def command(json: opt.Json = False) -> None:
    """Say what this machine has, what is missing, and how to get it."""
    findings = [f for examine in _EXAMINATIONS for f in examine()]
    if json:
        print_json([asdict(f) for f in findings])
    else:
        show(findings)
    if any(f.good is False for f in findings):
        raise typer.Exit(1)


def show(findings: list[Finding]) -> None:
    """Print findings, each with its fix."""
    console = stdout()
    for f in findings:
        sign = {True: "ok", False: "missing", None: "note"}[f.good]
        console.print(mark(f.good, f"{sign:8}"), end="")
        console.print(f"{f.subject:12} {f.fact}", markup=False, soft_wrap=True)
        if f.fix:
            console.print(f"{'':21}fix: {f.fix}", markup=False, soft_wrap=True)


def examine_cpu() -> list[Finding]:
    """Report the processor, its instruction sets, and the threads that will be used."""
    features = cpu_features()
    wide = "avx512f" in features
    python = ".".join(map(str, sys.version_info[:3]))
    limit = isa_limit()
    return [
        Finding("lamina", True, f"{lamina.__version__}, Python {python}"),
        Finding("processor", None, cpu_name()),
        Finding(
            "instructions",
            "avx2" in features,
            ", ".join(sorted(features)) or "none known",
            "" if "avx2" in features else "AVX2 is the least that generated code needs",
        ),
        Finding(
            "precisions",
            None,
            f"bf16 {_yes('avx512bf16' in features)}, "
            f"int8 dot products {_yes(bool(features & {'avx512vnni', 'avxvnni'}))}, "
            f"vectors of {512 if wide and limit != 'avx2' else 256} bits"
            + (" (LAMINA_ISA=avx2)" if limit == "avx2" else ""),
        ),
        Finding("threads", None, f"{default_threads()} (LAMINA_THREADS or the free cores)"),
    ]


def examine_onednn() -> list[Finding]:
    """Report oneDNN, or why it is absent."""
    library, why_not = find_library()
    if library is None:
        fact, *rest = why_not.splitlines()
        fix = next((r.strip().removeprefix("hint: ") for r in rest if "hint" in r), "")
        return [Finding("oneDNN", False, f"{fact}; our own kernels run instead", fix)]
    version = ".".join(map(str, library.version))
    return [Finding("oneDNN", True, f"{version}, {library.isa}, {library.path}")]


def examine_gpu() -> list[Finding]:
    """Report the first GPU, or why there is none to run on."""
    try:
        driver = find_driver("cuda", 0)
    except LaminaError as e:
        return [Finding("GPU", None, str(e).splitlines()[0])]
    if driver.missing:
        return [Finding("GPU", None, driver.missing.splitlines()[0])]
    return [Finding("GPU", True, ", ".join(v for _, v in driver.target()))]


def examine_packages() -> list[Finding]:
    """Report the packages that are needed to build, and those that add something."""
    found = [Finding(name, True, version) for name in _NEEDED if (version := installed(name))]
    found += [
        Finding(name, False, "not installed", f"pip install {name}")
        for name in _NEEDED
        if not installed(name)
    ]
    found.append(_llvm())
    for name, (use, wanted) in _OPTIONAL.items():
        version = installed(name)
        fact = f"{version}, {use}" if version else f"not installed (optional), {use}"
        found.append(Finding(name, None, fact, "" if version else f"pip install {wanted}"))
    return found


def examine_cache() -> list[Finding]:
    """Report where measured times are kept, and how much they take."""
    folder = cache_folder()
    files = [f for f in folder.glob("*") if f.is_file()] if folder.is_dir() else []
    size = sum(f.stat().st_size for f in files)
    return [Finding("cache", None, f"{folder}, {len(files)} files, {show_bytes(size)}")]


def self_check() -> list[Finding]:
    """Build and run a tiny network, and compare it with its meaning in NumPy."""
    started = time.perf_counter()
    try:
        ops = importlib.import_module("lamina.ops")
        graph = parse_graph(_TINY, ops.BY_NAME)
        x = np.random.default_rng(0).standard_normal((1, 8, 12, 12)).astype(np.float32)
        (wanted,) = interpret(graph, [x])
        engine = lamina.build(parse_graph(_TINY, ops.BY_NAME), timing_cache="")
        d = difference(engine(x), wanted)
    except LaminaError as e:
        return [Finding("self-check", False, str(e))]
    good = d.within(TOLERANCES["fp32"])
    seconds = show_seconds(time.perf_counter() - started)
    fact = f"a tiny network was built and run in {seconds}, relative difference {d.relative:.1e}"
    return [Finding("self-check", good, fact)]


def _llvm() -> Finding:
    version = installed("llvmlite")
    if version is None:
        return Finding("llvmlite", False, "not installed", "pip install llvmlite")
    target = importlib.import_module("lamina.codegen.llvm.target")
    return Finding("llvmlite", True, f"{version}, compiles for {target.host_isa().name}")


def _yes(has: bool) -> str:
    return "yes" if has else "no"


_EXAMINATIONS: Final[tuple[Callable[[], list[Finding]], ...]] = (
    examine_cpu,
    examine_onednn,
    examine_gpu,
    examine_packages,
    examine_cache,
    self_check,
)
