"""Instruction sets, and compilation of LLVM text to an object file."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import llvmlite.binding as llvm

from lamina.codegen.llvm.irtypes import Type
from lamina.errors import BuildError

_AVX2 = ("avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "popcnt", "movbe", "sse4.2")
_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd")
_OPTIONAL = ("avx512vnni", "avx512bf16", "avx512vbmi", "avxvnni", "avx512fp16")


@dataclass(frozen=True)
class Isa:
    """What code may use: ``name`` is ``"avx512"`` or ``"avx2"``; ``cpu`` only steers scheduling."""

    name: str
    cpu: str
    features: tuple[str, ...]
    vector_bytes: int
    registers: int

    def lanes(self, scalar: Type) -> int:
        """Return how many values of the scalar type one vector register holds."""
        return self.vector_bytes // scalar.scalar.nbytes

    def has(self, feature: str) -> bool:
        """Tell whether an LLVM feature such as ``"avx512vnni"`` may be used."""
        return feature in self.features


AVX2 = Isa("avx2", "x86-64-v3", _AVX2, 32, 16)
AVX512 = Isa("avx512", "x86-64-v4", _AVX2 + _AVX512, 64, 32)


@functools.cache
def host_isa() -> Isa:
    """Return the widest instruction set of this CPU.

    Raises BuildError on a CPU without AVX2 and FMA.
    """
    found = llvm.get_host_cpu_features()
    present = {name for name, on in found.items() if on}
    cpu = llvm.get_host_cpu_name()
    missing = [name for name in _AVX2 if name not in present]
    if missing:
        raise BuildError(
            f"this CPU ({cpu}) lacks {', '.join(missing)}",
            hint="Lamina's CPU backend needs AVX2 and FMA",
        )
    extra = tuple(name for name in _OPTIONAL if name in present)
    if all(name in present for name in _AVX512):
        return Isa("avx512", cpu, _AVX2 + _AVX512 + extra, 64, 32)
    narrow = tuple(name for name in extra if not name.startswith("avx512"))
    return Isa("avx2", cpu, _AVX2 + narrow, 32, 16)


@functools.cache
def _machine(isa: Isa) -> llvm.TargetMachine:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
    features = ",".join(f"+{name}" for name in isa.features)
    return target.create_target_machine(
        cpu=isa.cpu, features=features, opt=2, reloc="pic", codemodel="small"
    )


def _optimized(text: str, isa: Isa, level: int) -> llvm.ModuleRef:
    try:
        module = llvm.parse_assembly(text)
    except RuntimeError as error:
        raise BuildError(f"generated code is malformed: {error}") from error
    if level:
        tuning = llvm.create_pipeline_tuning_options(speed_level=max(level, 1))
        tuning.loop_vectorization = False
        tuning.slp_vectorization = False
        tuning.loop_unrolling = False
        builder = llvm.create_pass_builder(_machine(isa), tuning)
        passes = _few_passes() if level == 1 else builder.getModulePassManager()
        passes.run(module, builder)
    return module


def _few_passes() -> llvm.ModulePassManager:
    """Return what generated kernels profit from; the standard pipeline takes twice as long."""
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_sroa_pass()
    passes.add_simplify_cfg_pass()
    passes.add_instruction_combine_pass()
    return passes


def compile_module(text: str, isa: Isa, *, level: int = 1) -> bytes:
    """Compile LLVM text to a relocatable ELF object for x86-64 Linux.

    ``level`` is the middle end's: 0 nothing, 1 a few quick passes, 2 and 3 LLVM's own pipelines.
    Raises BuildError on malformed text.
    """
    module = _optimized(text, isa, level)
    try:
        code: bytes = _machine(isa).emit_object(module)
    finally:
        module.close()
    return code


def assembly(text: str, isa: Isa, *, level: int = 1) -> str:
    """Return the assembler text that ``compile_module`` would encode, to look at."""
    module = _optimized(text, isa, level)
    listing: str = _machine(isa).emit_assembly(module)
    return listing
