"""Runtime half of the CUDA backend; imports no compiler."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any, Final

from lamina.backends.cuda import bindings
from lamina.backends.cuda.arena import ArenaPlan
from lamina.backends.cuda.device import Device
from lamina.backends.cuda.library.steps import read_library_steps
from lamina.backends.cuda.memory import Memory
from lamina.backends.cuda.packing import WeightMemory
from lamina.backends.cuda.residency import programs_of
from lamina.backends.cuda.resources import Resources, RunOptions
from lamina.backends.cuda.runner import CudaRunner
from lamina.config import cuda_run_options
from lamina.errors import DeviceError, LaminaError, PlanError
from lamina.plan.plan import Section
from lamina.runtime.driver import Allocator

SIMULATED: Final = "simulated"
_ARCHITECTURE: Final = re.compile(r"sm_(\d+)([af]?)")


class CudaDriver:
    """One GPU of this machine, or the reason why there is none (``missing``)."""

    def __init__(
        self,
        device: Device | None,
        missing: str = "",
        *,
        allocator: Allocator | None = None,
        options: RunOptions | None = None,
    ) -> None:
        self.device, self.missing = device, missing
        self.name = device.name if device else "cuda"
        self._allocator = allocator
        self._options = options or RunOptions(**cuda_run_options())

    def target(self) -> tuple[tuple[str, str], ...]:
        """Return the architecture of the GPU and the version of its driver."""
        device = self.device
        if device is None:
            return (("arch", "none"), ("device", "cuda"), ("driver", "none"))
        return (
            ("arch", f"sm_{device.arch}"),
            ("device", "cuda"),
            ("driver", str(device.driver_version)),
        )

    def refusal(self, section: Section) -> str | None:
        """Return why ``section`` cannot run here, or None.

        Machine code runs on GPUs of the same major compute capability and the same minor one or a
        higher; that of ``sm_90a`` and the like on exactly theirs (CUDA C++ Programming Guide,
        "Binary compatibility").
        """
        needs = dict(section.target)
        if needs.get("device") != "cuda":
            return f"it is for {needs.get('device')}"
        if self.device is None:
            return self.missing.splitlines()[0]
        found = _ARCHITECTURE.fullmatch(needs.get("arch", ""))
        if found is None:
            return f"it names no GPU architecture, but {needs.get('arch')!r}"
        wanted, here = int(found[1]), self.device.arch
        fits = wanted // 10 == here // 10 and wanted <= here
        if not fits or (found[2] == "a" and wanted != here):
            return f"it is for {found[0]}, {self.name} ({self.device.model}) is sm_{here}"
        if not needs.get("driver", "0").isdecimal():
            return f"it needs a driver for CUDA {needs['driver']!r}, which is no version"
        if (version := int(needs.get("driver", "0"))) > self.device.driver_version:
            return (
                f"it needs a driver for CUDA {_version(version)}, here is one for "
                f"{_version(self.device.driver_version)}"
            )
        return _missing_library(section, self.device)

    def load(self, section: Section, resident_bytes: int | None = None) -> LoadedSection:
        """Bring code and constants of a section to the device.

        Constants beyond ``resident_bytes`` stay in page-locked memory, where kernels read them.
        """
        if self.device is None:
            raise DeviceError(self.missing)
        if (reason := self.refusal(section)) is not None:
            raise PlanError(f"the section cannot run on {self.name}: {reason}")
        memory = Memory(self.device, self._allocator)
        resources = Resources(section, self.device, memory, self._options, resident_bytes)
        return LoadedSection(resources)


class LoadedSection:
    """A section ready to run; contexts share its code and constants."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources

    def runner(self) -> CudaRunner:
        """Return a runner with buffers of its own."""
        return CudaRunner(self.resources, self.resources.section.program)

    def refitted(self, section: Section) -> LoadedSection:
        """Return the section with other contents of some constants."""
        return LoadedSection(self.resources.refitted(section))

    def weight_memory(self, size_bytes: int) -> WeightMemory | None:
        """Return page-locked memory; None where there is no more of it."""
        return self.resources.weight_memory(size_bytes)

    def arena_bytes(self, sizes: Mapping[str, int]) -> int:
        """Return the bytes of the arena for these sizes of symbols."""
        program, options = self.resources.section.program, self.resources.options
        resident = self.resources.of(program).resident
        branches = options.branches and options.graphs
        return ArenaPlan(program, resident, sizes, branches=branches).size_bytes


def _missing_library(section: Section, device: Device) -> str | None:
    """Return which library the steps of a section need in vain, with the way to get it."""
    for program in programs_of(section.program):
        for step in read_library_steps(section, program).values():
            try:
                device.library(step.library)
            except LaminaError as e:
                fix = f"; {e.hint}" if e.hint else ""
                return f"it needs the library {step.library}: {str(e).splitlines()[0]}{fix}"
    return None


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def driver(
    threads: int | None = None,
    device: str = "cuda",
    *,
    allocator: Allocator | None = None,
    options: RunOptions | None = None,
) -> CudaDriver:
    """Return the driver of a GPU: ``cuda`` (the first), ``cuda:1``, or ``cuda:simulated``.

    ``threads`` is for the CPU's driver and means nothing here.
    """
    which = device.partition(":")[2] or "0"
    if which == SIMULATED:
        # Loaded late: it is for tests, and its kernels need Triton.
        simulated: Any = importlib.import_module("lamina.backends.cuda.simulated")
        return CudaDriver(simulated.SimulatedDevice(), allocator=allocator, options=options)
    if not which.isdecimal():
        raise PlanError(f"device {device!r} is not known", hint="name a GPU as cuda or cuda:1")
    try:
        found = bindings.open_device(int(which))
    except DeviceError as e:
        return CudaDriver(None, str(e), allocator=allocator, options=options)
    return CudaDriver(found, allocator=allocator, options=options)
