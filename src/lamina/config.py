"""What the user may choose; the only module that reads the environment.

=========================== ====================================================================
``LAMINA_THREADS``          number of threads when none is given
``LAMINA_ONEDNN_LIBRARY``   path of a ``libdnnl.so.3`` to use in place of the installed one
``LAMINA_CACHE_DIR``        folder of the timing cache (default ``$XDG_CACHE_HOME/lamina``)
``LAMINA_ISA``              ``avx2`` keeps generated code from using AVX-512
``LAMINA_TENSORRT_DEVICE``  ``cpu`` or ``cuda`` for ``lamina.tensorrt`` (default: a GPU if any)
``LAMINA_TENSORRT_VERSION`` version that ``lamina.tensorrt`` speaks for (default ``10``)
``LAMINA_CUDA_CHECK``       ``1`` waits after each step on a GPU, so that a fault names its step
``LAMINA_CUDA_BRANCHES``    ``0`` runs the steps of a CUDA graph one after the other
``LAMINA_NVTX``             ``1`` names runs and steps on a GPU for NVIDIA's profilers
=========================== ====================================================================
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from lamina.errors import ConfigError

_SPIN_COUNT = "20000"
Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8"]
Shape = tuple[int, ...]
ShapeRange = tuple[Shape, Shape, Shape]
Progress = Callable[["ProgressEvent"], None]
_CUDA_OPTIONS = {
    "LAMINA_CUDA_CHECK": "check",
    "LAMINA_CUDA_BRANCHES": "branches",
    "LAMINA_NVTX": "ranges",
}
_LARGE_PAGES = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in (
        ("hugetlb", 1),
        ("top_pad", 32 << 20),
        ("trim_threshold", 1 << 32),
        ("mmap_threshold", 32 << 20),
    )
)
"""How the C library gets memory in processes that compile."""
_IN_MEMORY = "/dev/shm"
_LEAST_ROOM_BYTES = 256 << 20
LIBRARIES = ("onednn", "cublaslt", "cudnn")
"""Libraries whose kernels compete with Lamina's own."""

BUILT = "built"
"""The stage of a build that is over."""


@dataclass(frozen=True)
class ProgressEvent:
    """Where a build is: ``done`` of ``total`` units of ``stage``, at ``item``.

    In the last event the stage is :data:`BUILT`, and the item says where the time went.
    """

    stage: str
    done: int
    total: int
    item: str = ""


@dataclass(frozen=True)
class Target:
    """What a section is compiled for: ``cpu``, ``cuda`` or ``reference``.

    ``arch`` is the compute capability times ten of a CUDA device, 0 for the one of this machine.
    """

    device: str
    arch: int = 0


def parse_targets(text: str) -> tuple[Target, ...]:
    """Read targets such as ``cpu,cuda:sm_90``; raises ConfigError for anything else."""
    if not isinstance(text, str):
        raise ConfigError(f"target {text!r} is not text", hint="use 'cpu', 'cuda' or 'cuda:sm_90'")
    targets = []
    for name in text.split(","):
        device, _, arch = name.strip().partition(":")
        number = arch.removeprefix("sm_")
        if device in ("cpu", "reference", "cuda") and not arch:
            targets.append(Target(device))
        elif device == "cuda" and arch.startswith("sm_") and number.isdigit():
            targets.append(Target(device, int(number)))
        else:
            raise ConfigError(
                f"target {name.strip()!r} is not available",
                hint="use 'cpu', 'cuda', 'cuda:sm_90' or several of them: 'cpu,cuda:sm_80'",
            )
    if len(set(targets)) != len(targets):
        raise ConfigError(f"a target is named twice in {text!r}")
    return tuple(targets)


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Options of one build.

    ``target`` names one device or several, separated by commas; the plan gets a section for each.
    ``shapes`` gives for an input its (min, opt, max) shapes; equal ones make it static.
    ``optimization_level`` 0 takes each node's first tactic, 1 and 2 time few, 3 (default) and more
    time all.  ``timing_cache`` is a file, None for the default place, "" for no cache.
    ``without`` names passes to leave out.  ``keep_graph`` stores the portable graph in the plan, so
    that it can be re-specialized for another machine.  With ``refittable`` no values of weights but
    single numbers decide how the plan is built, so that any others can take their place at once.

    ``libraries`` names those whose kernels may be chosen, of ``onednn``, ``cublaslt`` and
    ``cudnn``; None allows all.  ``workspace_bytes`` is the most scratch memory that one step may
    ask for, ``shared_bytes`` the most memory of a block on a GPU, ``most_tactics`` the most
    candidates that are timed for a node (0: no limit).  A time is the least of ``timing_runs`` or
    more averages, each over ``timing_average`` runs.
    ``full_precision`` names nodes of the model whose products are of f32 whatever the precision.
    ``direct`` names nodes, such as transposes, that are to be views where kernels allow it.
    ``on_host`` names nodes that a GPU's section leaves to the host, which runs them with NumPy.
    ``selector`` chooses among candidates itself: a :class:`lamina.tactics.policy.Selector`.

    ``time_budget`` is how many seconds candidates may be compiled and timed (0: as long as it
    takes), what counts most first; the rest is left to times that are known and to the cost model.
    """

    target: str = "cpu"
    precision: Precision = "fp32"
    shapes: Mapping[str, ShapeRange] = field(default_factory=dict)
    threads: int = 0
    optimization_level: int = 3
    timing_cache: str | None = None
    without: tuple[str, ...] = ()
    keep_graph: bool = True
    refittable: bool = False
    verify: bool = False
    full_precision: tuple[str, ...] = ()
    on_host: tuple[str, ...] = ()
    direct: tuple[str, ...] = ()
    libraries: tuple[str, ...] | None = None
    workspace_bytes: int | None = None
    shared_bytes: int | None = None
    most_tactics: int = 0
    timing_average: int = 1
    timing_runs: int = 1
    time_budget: float = 0.0
    selector: Any = None

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ConfigError(
                f"precision {self.precision!r} is not known",
                hint=f"choose one of {', '.join(get_args(Precision))}",
            )
        level = self.optimization_level
        if not isinstance(level, int) or not 0 <= level <= 5:
            raise ConfigError(f"optimization level {level!r} is not between 0 and 5")
        if not isinstance(self.time_budget, int | float) or not self.time_budget >= 0:
            raise ConfigError(
                f"a time budget of {self.time_budget!r} seconds is none",
                hint="give seconds, or 0 to time everything",
            )
        check_threads(self.threads)
        parse_targets(self.target)
        if unknown := sorted({*(self.libraries or ())} - {*LIBRARIES}):
            raise ConfigError(
                f"the library {unknown[0]!r} is not known", hint=f"choose of {', '.join(LIBRARIES)}"
            )
        self._check_limits()

    def _check_limits(self) -> None:
        if self.workspace_bytes is not None and self.workspace_bytes < 0:
            raise ConfigError(
                f"a workspace of {self.workspace_bytes} bytes cannot be",
                hint="give bytes, 0 for kernels without any, or None for no limit",
            )
        if self.timing_average < 1 or self.timing_runs < 1:
            raise ConfigError(
                f"{self.timing_runs} averages of {self.timing_average} runs cannot be timed",
                hint="timing_runs and timing_average are at least 1",
            )


def shape_ranges(shapes: Mapping[str, Any]) -> dict[str, ShapeRange]:
    """Turn what users write into ranges: one shape, or (min, opt, max).

    Raises ConfigError for anything else, and for ranges that are not in order.
    """
    if not isinstance(shapes, Mapping):
        raise ConfigError(
            f"the shapes are a {type(shapes).__name__}, not shapes by name of the input",
            hint="such as {'x': (1, 3, 224, 224)}",
        )
    return {name: _range(name, given) for name, given in shapes.items()}


def _range(name: str, given: Any) -> ShapeRange:
    try:
        items = tuple(given)
        if all(isinstance(d, int) and not isinstance(d, bool) for d in items):
            items = (items, items, items)
        low, opt, high = (tuple(int(d) for d in shape) for shape in items)
    except (TypeError, ValueError) as e:
        raise ConfigError(
            f"the shape of {name!r} is {given!r}",
            hint="give one shape, such as (1, 3, 224, 224), or (min, opt, max)",
        ) from e
    if not len(low) == len(opt) == len(high):
        raise ConfigError(f"the shapes of {name!r} have {len(low)}, {len(opt)}, {len(high)} dims")
    if any(not 0 <= a <= b <= c for a, b, c in zip(low, opt, high, strict=True)):
        raise ConfigError(f"the shapes of {name!r} are not in order: {low} <= {opt} <= {high}")
    return (low, opt, high)


def check_threads(threads: int) -> None:
    """Raise ConfigError for what cannot be a number of threads."""
    if not isinstance(threads, int) or not 0 <= threads <= 1024:
        raise ConfigError(f"{threads!r} threads: expected 1 to 1024, or 0 for all cores")


def default_threads() -> int:
    """Return ``LAMINA_THREADS``, or the number of cores this process may use."""
    text = os.environ.get("LAMINA_THREADS", "")
    if not text:
        return len(os.sched_getaffinity(0))
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"LAMINA_THREADS is {text!r}, expected a number of at least 1")
    return int(text)


def onednn_path() -> str | None:
    """Return the user's oneDNN library, or None for the installed one."""
    return os.environ.get("LAMINA_ONEDNN_LIBRARY") or None


def shorten_spinning() -> None:
    """Make OpenMP's idle threads sleep after about half a millisecond, unless the user decided it.

    By default libgomp's threads spin for several milliseconds, which ruins whatever else wants the
    cores (and, on a machine that others use, the run itself).  libgomp reads this once, when it is
    loaded.
    """
    if "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT


def worker_environment(folder: str) -> dict[str, str]:
    """Return the environment of processes that compile GPU kernels; ``folder`` is for their files.

    Lines of source in a kernel would make it three times as large.  One thread compiles, and its
    memory comes in large pages: the assembler, a process of its own for every kernel, touches 20
    MB.
    """
    usual = {"GLIBC_TUNABLES": _LARGE_PAGES, "OPENBLAS_NUM_THREADS": "1"}
    # PTX is asked for as well as machine code.
    needed = {"TRITON_DISABLE_LINE_INFO": "1", "TRITON_STORE_BINARY_ONLY": "0", "TMPDIR": folder}
    return usual | dict(os.environ) | needed


def folder_in_memory() -> str | None:
    """Return where files that live for moments lie in memory; None where there is no such place."""
    return _IN_MEMORY if not os.environ.get("TMPDIR") and _is_roomy(_IN_MEMORY) else None


def _is_roomy(folder: str) -> bool:
    """Whether files may be written into a folder, some hundred megabytes of them."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return os.access(folder, os.W_OK) and found.f_bavail * found.f_frsize >= _LEAST_ROOM_BYTES


def isa_limit() -> str:
    """Return the instruction set that generated code must not exceed, "" for no limit."""
    text = os.environ.get("LAMINA_ISA", "")
    if text not in ("", "avx2", "avx512"):
        raise ConfigError(f"LAMINA_ISA is {text!r}, expected 'avx2' or 'avx512'")
    return text


def tensorrt_device() -> str:
    """Return the device that ``lamina.tensorrt`` is to use, "" to take a GPU where there is one."""
    text = os.environ.get("LAMINA_TENSORRT_DEVICE", "")
    if text not in ("", "cpu", "cuda"):
        raise ConfigError(f"LAMINA_TENSORRT_DEVICE is {text!r}, expected 'cpu' or 'cuda'")
    return text


def tensorrt_version() -> str:
    """Return the version of TensorRT that ``lamina.tensorrt`` speaks for unless told otherwise."""
    return os.environ.get("LAMINA_TENSORRT_VERSION") or "10"


def cuda_run_options() -> dict[str, bool]:
    """Return how programs run on a GPU, as far as the environment says so."""
    options = {}
    for name, option in _CUDA_OPTIONS.items():
        text = os.environ.get(name, "")
        if text not in ("", "0", "1"):
            raise ConfigError(f"{name} is {text!r}, expected '0' or '1'")
        if text:
            options[option] = text == "1"
    return options


def cache_folder() -> Path:
    """Return the folder of the timing cache."""
    if folder := os.environ.get("LAMINA_CACHE_DIR"):
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "lamina"
