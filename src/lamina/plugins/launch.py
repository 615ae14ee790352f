"""Launches of Triton kernels, as plugins write them down."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lamina.errors import ConfigError
from lamina.ir.dims import Dim, Expr, is_static, product
from lamina.ir.types import DType, TensorType
from lamina.ops.plugin_kernels import (
    Number,
    OperandPointer,
    PluginArgument,
    PluginLaunch,
    PluginVariant,
    ResultPointer,
    SizeArgument,
    TritonFunction,
    WorkspacePointer,
)
from lamina.plugins.triton_text import is_constexpr, parameters_of, standalone_text

_MOST_AXES: Final = 3


@dataclass(frozen=True)
class PluginTensor:
    """An operand or result of a plugin, to be passed to kernels; sizes may be expressions."""

    type: TensorType
    pointer: OperandPointer | ResultPointer

    @property
    def dtype(self) -> DType:
        """Element type."""
        return self.type.dtype

    @property
    def shape(self) -> tuple[Dim, ...]:
        """Sizes."""
        return self.type.shape

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return self.type.rank

    @property
    def size(self) -> Dim:
        """Number of elements."""
        return product(self.type.shape)

    @property
    def strides(self) -> tuple[Dim, ...]:
        """Elements between neighbours along each axis: tensors are row-major without gaps."""
        return tuple(product(self.type.shape[i + 1 :]) for i in range(self.rank))


@dataclass(frozen=True)
class Workspace:
    """Memory for the launches of one call; pass it as an argument like a tensor."""

    size_bytes: Dim


class Launch:
    """A launch of a Triton kernel: ``kernel[grid](*arguments, **keywords)``, ahead of time.

    Tensors, sizes (numbers or expressions), a :class:`Workspace` and constants bind to the
    parameters of the kernel as in a call.  Parameters annotated ``tl.constexpr`` take numbers,
    booleans, text or None; others take tensors, or integers of 32 bits.  ``num_warps`` and
    ``num_stages`` are Triton's.  Raises ConfigError for what does not fit the kernel.
    """

    def __init__(
        self,
        kernel: Any,
        grid: Sequence[Dim],
        *arguments: Any,
        num_warps: int = 4,
        num_stages: int = 3,
        **keywords: Any,
    ) -> None:
        names = parameters_of(kernel)
        self.name = names.function
        self.grid = tuple(grid)
        if not 1 <= len(self.grid) <= _MOST_AXES:
            raise ConfigError(f"the grid of {self.name} has {len(self.grid)} axes, expected 1 to 3")
        self.warps, self.stages = num_warps, num_stages
        self.kernel = kernel
        try:
            bound = inspect.Signature(names.parameters).bind(*arguments, **keywords)
        except TypeError as e:
            raise ConfigError(f"the arguments of kernel {self.name} do not fit: {e}") from e
        bound.apply_defaults()
        self.arguments: dict[str, Any] = dict(bound.arguments)
        self.constants = {p.name for p in names.parameters if is_constexpr(p)}

    @property
    def workspace_bytes(self) -> Dim:
        """Bytes of the workspace, 0 without one."""
        sizes = [v.size_bytes for v in self.arguments.values() if isinstance(v, Workspace)]
        if any(s != sizes[0] for s in sizes):
            raise ConfigError(f"kernel {self.name} takes workspaces of different sizes")
        return sizes[0] if sizes else 0

    def described(self) -> PluginLaunch:
        """Return the launch as the backend reads it."""
        passed: list[tuple[str, PluginArgument]] = []
        constants: list[tuple[str, Number]] = []
        for name, value in self.arguments.items():
            argument = None if name in self.constants else _argument(value)
            if argument is not None:
                passed.append((name, argument))
            else:
                constants.append((name, self._constant(name, value)))
        return PluginLaunch(
            function=self.name,
            code=TritonFunction(
                text=standalone_text(self.kernel),
                parameters=tuple(name for name, _ in passed),
                constants=tuple(constants),
                stages=self.stages,
            ),
            grid=self.grid,
            arguments=tuple(argument for _, argument in passed),
            warps=self.warps,
        )

    def settings(self) -> str:
        """Return the constants and options, which tell variants apart."""
        numbers = [f"{n}={v}" for n, v in sorted(self.arguments.items()) if n in self.constants]
        return " ".join([self.name, *numbers, f"warps={self.warps}", f"stages={self.stages}"])

    def _constant(self, name: str, value: Any) -> Number:
        if isinstance(value, Expr):
            raise ConfigError(
                f"parameter {name} of kernel {self.name} is a constant, but {value} is not known "
                "when the kernel is compiled",
                hint="take the annotation tl.constexpr away, or build for one shape",
            )
        plain = value.item() if isinstance(value, np.generic) else value
        if plain is None or isinstance(plain, int | float | bool | str):
            return plain
        raise ConfigError(
            f"parameter {name} of kernel {self.name} got a {type(value).__name__}, expected a "
            "tensor of the plugin, a size, or a constant"
        )


def _argument(value: Any) -> PluginArgument | None:
    """Return what is passed at a launch, None for a constant."""
    if isinstance(value, PluginTensor):
        return value.pointer
    if isinstance(value, Workspace):
        return WorkspacePointer()
    if isinstance(value, bool):
        return None
    if isinstance(value, Expr) or (is_static(value) and isinstance(value, int)):
        return SizeArgument(value)
    return None


def variant(launches: Launch | Sequence[Launch]) -> PluginVariant:
    """Return launches as one way to compute a plugin; its name has a digest of the kernels."""
    several: list[Any] = list(launches) if isinstance(launches, list | tuple) else [launches]
    if not several or not all(isinstance(launch, Launch) for launch in several):
        raise ConfigError(
            f"the triton function of a plugin gave {launches!r}, expected a Launch or a list of "
            "launches"
        )
    described = tuple(launch.described() for launch in several)
    digest = hashlib.blake2b(repr(described).encode(), digest_size=4).hexdigest()
    sizes = [launch.workspace_bytes for launch in several]
    return PluginVariant(
        name=f"{', '.join(launch.settings() for launch in several)} #{digest}",
        launches=described,
        workspace_bytes=_largest(sizes),
    )


def _largest(sizes: Sequence[Dim]) -> Dim:
    wanted = [s for s in sizes if s != 0]
    if any(s != wanted[0] for s in wanted):
        raise ConfigError("the launches of a plugin take workspaces of different sizes")
    return wanted[0] if wanted else 0


def tensors(
    inputs: Sequence[TensorType], outputs: Sequence[TensorType]
) -> tuple[list[PluginTensor], list[PluginTensor]]:
    """Return operands and results for the function that says what to launch."""
    operands = [PluginTensor(t, OperandPointer(i)) for i, t in enumerate(inputs)]
    return operands, [PluginTensor(t, ResultPointer(i)) for i, t in enumerate(outputs)]


def launched(
    function: Any, operands: Sequence[Any], results: Sequence[Any], attributes: Mapping[str, Any]
) -> list[PluginVariant]:
    """Return the ways that a plugin's ``triton`` function gives, one or several."""
    found = function(*operands, *results, **attributes)
    ways = [found] if isinstance(found, Launch) else list(found)
    return [variant(way) for way in ways]
