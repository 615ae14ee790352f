"""Turns PTX into machine code with the assembler that comes with Triton."""

from __future__ import annotations

import base64
import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Final

from triton import knobs

from lamina.backends.cuda.compile import MachineCode
from lamina.backends.cuda.request import ASSEMBLY, KernelRequest
from lamina.errors import BuildError
from lamina.ops.plugin_kernels import MACHINE_CODE

_TARGET: Final = re.compile(r"^\s*\.target\s+sm_(\d+)([af]?)", re.MULTILINE)
_WAIT: Final = re.compile(r"griddepcontrol\.wait\b")
_RELEASE: Final = re.compile(r"griddepcontrol\.launch_dependents\b")
_MEMORY: Final = re.compile(r"\b(?:ld(?!\.param)|ldu|st|cp|red|atom|wgmma|tensormap|prefetch)\.")
_SECONDS: Final = 120
_BLACKWELL: Final = 100
_ELF: Final = b"\x7fELF"
_NEWER: Final = "Unsupported .version"


def assemble(request: KernelRequest, arch: int) -> MachineCode:
    """Assemble the PTX of a request for compute capability ``arch``; machine code stays as it is.

    Raises BuildError with the reason: PTX for newer devices, of features that only another device
    has, or without the function.
    """
    shared, _, text = request.source.removeprefix(ASSEMBLY).partition("\n")
    driver = 0  # of machine code that somebody else made nothing is known
    if text.startswith(MACHINE_CODE):
        cubin = base64.b64decode(text.removeprefix(MACHINE_CODE))
    else:
        cubin = assembled(text, request.function, arch)
        driver = driver_version(arch) if cubin.startswith(_ELF) else 0
    return MachineCode(
        cubin=cubin,
        function=request.function,
        warps=request.warps,
        shared_bytes=int(shared),
        scratch_bytes=0,
        scratch_align=1,
        driver_version=driver,
    )


def assembled(text: str, function: str, arch: int) -> bytes:
    """Return the machine code of PTX; raises BuildError with the reason."""
    return _cubin(text, _architecture(text, function, arch), function, arch)


def with_early_release(text: str) -> str:
    """Return PTX that lets the next kernel start before it waits for the one ahead.

    A kernel that does either in several places, as one whose warps do different work, stays as it
    is, and so does one that uses memory in between, which would no longer be behind the wait.  The
    next one still waits for the end of this one, which waits for the one ahead.
    """
    waits, releases = [*_WAIT.finditer(text)], [*_RELEASE.finditer(text)]
    if len(waits) != 1 or len(releases) != 1:
        return text
    (wait,), (release,) = waits, releases
    between = text[wait.end() : release.start()]
    if wait.start() > release.start() or _MEMORY.search(between):
        return text
    return text[: wait.start()] + release[0] + between + wait[0] + text[release.end() :]


@cache
def driver_version(arch: int) -> int:
    """Return the oldest driver that loads what the assembler writes: 1000 for CUDA's major version.

    Drivers load machine code of all minor versions of their own major version.
    """
    return 1000 * int(_assembler(arch).version.partition(".")[0])


def _assembler(arch: int) -> Any:
    """Return the assembler that Triton uses for a compute capability."""
    tools = knobs.nvidia
    return tools.ptxas_blackwell if arch >= _BLACKWELL else tools.ptxas


def _architecture(text: str, function: str, arch: int) -> str:
    """Return what to assemble for; raises BuildError where that is not the device."""
    found = _TARGET.search(text)
    if found is None:
        raise BuildError(f"the code of kernel {function} is no PTX: it has no .target")
    made_for, features = int(found[1]), found[2]
    if made_for > arch or (features and made_for != arch):
        raise BuildError(f"kernel {function} is PTX for sm_{made_for}{features}, not for sm_{arch}")
    if not re.search(rf"\.entry\s+{re.escape(function)}\b", text):
        raise BuildError(f"the PTX has no kernel {function}")
    return f"sm_{arch}{features}"


def _cubin(text: str, architecture: str, function: str, arch: int) -> bytes:
    program = _assembler(arch).path
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(text)
        command = [program, f"-arch={architecture}", str(source), "-o", str(result)]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as e:
            raise BuildError(f"the assembler of kernel {function} did not run: {e}") from e
        if run.returncode:
            lines = (run.stderr or run.stdout).strip().splitlines() or ["no reason"]
            if any(_NEWER in line for line in lines):
                return text.encode() + b"\0"  # of a newer compiler: the driver assembles it
            raise BuildError(f"the PTX of kernel {function} cannot be assembled: {lines[0]}")
        return result.read_bytes()
