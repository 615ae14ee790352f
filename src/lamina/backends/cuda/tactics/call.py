"""Builds the launch of a kernel that stands in a module, argument by argument."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.backends.cuda.request import (
    MODULE,
    Argument,
    Boxes,
    Counters,
    CudaDraft,
    Direction,
    KernelRequest,
    Launch,
    Number,
    Scalar,
)
from lamina.backends.cuda.triton_types import BOXES, TRITON_TYPES
from lamina.ir.dims import Dim, divides, is_static
from lamina.ir.types import DType
from lamina.tactics.candidate import Placement, Role

_PACKAGE = "lamina.backends.cuda.kernels."
_ALIGNMENT = 16


class OnlyDraft:
    """Returns the one draft that there is: operands and results are row-major."""

    def __init__(self, draft: CudaDraft) -> None:
        self.draft = draft

    def __call__(self, placement: Placement) -> CudaDraft:
        return self.draft


class Call:
    """The arguments of one kernel; they are given in the order of its signature.

    A size that is a number becomes a constant of the kernel, one with symbols a parameter.
    """

    def __init__(self, module: str, function: str) -> None:
        self.module, self.function = module, function
        self.parameters: list[tuple[str, str]] = []
        self.arguments: list[Argument] = []
        self.constants_: dict[str, Number] = {}
        self.divisible: list[str] = []

    def pointer(self, name: str, role: Role | Counters | None, dtype: DType = DType.I32) -> None:
        """Pass an operand; None stands for an absent one."""
        if role is None:
            self.constants_[name] = None
            return
        self._pass(name, f"*{TRITON_TYPES[dtype]}", role)
        self.divisible.append(name)

    def boxes(self, name: str, boxes: Boxes | None, box: Sequence[int]) -> None:
        """Pass an operand that the copy engine moves in boxes of this shape."""
        if boxes is None:
            self.constants_[name] = None
            return
        shape = ",".join(map(str, box))
        self._pass(name, f"{BOXES}<{TRITON_TYPES[boxes.dtype]}[{shape}]>", boxes)

    def sizes(self, **sizes: Dim) -> None:
        """Pass integers that are known at the latest when the shapes of the inputs are."""
        for name, size in sizes.items():
            if is_static(size):
                self.constants_[name] = int(size)  # type: ignore[arg-type]
                continue
            self._pass(name, "i32", Scalar(size))
            if divides(_ALIGNMENT, size):
                self.divisible.append(name)

    def direction(self, name: str) -> None:
        """Pass whether to begin with the last tile, which the program decides."""
        self._pass(name, "i32", Direction())

    def constants(self, **numbers: Number) -> None:
        """Pass what decides the code of the kernel."""
        self.constants_.update(numbers)

    def launch(self, grid: tuple[Dim, ...], *, warps: int, stages: int, dependent: bool) -> Launch:
        """Return the launch; missing axes of the grid are 1."""
        x, y, z = (*grid, 1, 1)[:3]
        request = KernelRequest(
            function=self.function,
            source=f"{MODULE}{_PACKAGE}{self.module}",
            parameters=tuple(self.parameters),
            constants=tuple(sorted(self.constants_.items())),
            divisible=tuple(self.divisible),
            warps=warps,
            stages=stages,
            dependent=dependent,
        )
        return Launch(kernel=request, grid=(x, y, z), arguments=tuple(self.arguments))

    def _pass(self, name: str, type_: str, argument: Argument) -> None:
        self.parameters.append((name, type_))
        self.arguments.append(argument)
