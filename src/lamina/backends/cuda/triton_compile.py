"""Turns kernel requests into machine code, ahead of time: needs neither a GPU nor torch.

The only file that imports Triton's compiler.  It runs in worker processes (see ``compile.py``),
so that the building process does without Triton when the cache has all kernels.
"""

from __future__ import annotations

import importlib
import linecache
import sys
from types import ModuleType
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lamina.backends.cuda.assemble_ptx import (
    assemble,
    assembled,
    driver_version,
    with_early_release,
)
from lamina.backends.cuda.compile import MachineCode
from lamina.backends.cuda.kernels.pairing import has_pairs, with_pairs
from lamina.backends.cuda.request import ASSEMBLY, MODULE, KernelRequest
from lamina.backends.cuda.triton_types import BOXES
from lamina.errors import BuildError

_WARP = 32
_SWIZZLES = (0, 32, 64, 128)
"""Bytes within which parts of a box trade places, by Triton's number."""


def compile_request(request: KernelRequest, arch: int) -> MachineCode:
    """Compile one kernel for compute capability ``arch``; raises BuildError with the reason."""
    if request.source.startswith(ASSEMBLY):
        return assemble(request, arch)
    constants = dict(request.constants)
    try:
        function = load_function(request)
        types = {n: _type(t, function) for n, t in request.parameters}
        names: list[str] = list(function.arg_names)
        signature = {n: types.get(n, "constexpr") for n in names}
        divisible = {(names.index(n),): [["tt.divisibility", 16]] for n in request.divisible}
        kind = _source_of(function)
        source = kind(fn=function, signature=signature, constexprs=constants, attrs=divisible)
        options: dict[str, Any] = {"num_warps": request.warps, "num_stages": request.stages}
        if request.dependent:
            options["launch_pdl"] = True
        if request.most_registers:
            options["maxnreg"] = request.most_registers
        kernel = triton.compile(source, target=GPUTarget("cuda", arch, _WARP), options=options)
    except Exception as e:  # Triton raises what it likes, down to RuntimeError of its passes
        lines = [line for line in str(e).splitlines() if line.strip()] or [type(e).__name__]
        raise BuildError(f"Triton cannot compile {request.function}: {lines[-1]}") from e
    meta = kernel.metadata
    cubin, text = kernel.asm["cubin"], kernel.asm["ptx"]
    if request.releases_early:
        text = with_early_release(text)
    if has_pairs(text):
        text = with_pairs(text, request.warps)
    if text != kernel.asm["ptx"]:
        cubin = assembled(text, meta.name, arch)
    return MachineCode(
        cubin=cubin,
        function=meta.name,
        warps=meta.num_warps,
        shared_bytes=meta.shared,
        scratch_bytes=meta.global_scratch_size,
        scratch_align=meta.global_scratch_align,
        driver_version=driver_version(arch),
        boxes=tuple(
            (tuple(m["block_size"]), _SWIZZLES[m["swizzle"]]) for m in meta.tensordesc_meta
        ),
    )


def _source_of(function: Any) -> Any:
    """Return the class of a function's source: of Triton, or of Gluon with layouts written out."""
    if not function.is_gluon():
        return ASTSource
    return importlib.import_module("triton.experimental.gluon._runtime").GluonASTSource


def _type(text: str, function: Any) -> str:
    """Return a parameter's type; Gluon wants to know how boxes lie in shared memory."""
    if not text.startswith(BOXES) or not function.is_gluon():
        return text
    block = triton.language.str_to_ty(text, None).block_type
    layouts = importlib.import_module("triton.experimental.gluon.language").NVMMASharedLayout
    layout = layouts.get_default_for(list(map(int, block.shape)), block.element_ty)
    return f"{text[:-1]},{layout!r}>"


def load_function(request: KernelRequest) -> Any:
    """Return the jit function of a request, from its module or from its text."""
    if request.source.startswith(MODULE):
        module = importlib.import_module(request.source.removeprefix(MODULE))
        return getattr(module, request.function)
    return getattr(_module_of_text(request.source), request.function)


_modules: dict[str, ModuleType] = {}


def _module_of_text(text: str) -> ModuleType:
    """Run generated source as a module; Triton reads the text of its functions from linecache."""
    if text not in _modules:
        name = f"lamina_generated_{len(_modules)}"
        module = ModuleType(name)
        module.__file__ = file = f"<{name}>"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        sys.modules[name] = module
        exec(compile(text, file, "exec"), vars(module))
        _modules[text] = module
    return _modules[text]
