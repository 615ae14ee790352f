"""What kernels may use on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lamina.backends.cpu.onednn.library import Library
from lamina.codegen.llvm.target import Isa
from lamina.ir.types import TensorType
from lamina.tactics.form import Form, possible_forms


@dataclass(frozen=True)
class CpuTarget:
    """What candidates may use: library (None without oneDNN), instruction set, threads.

    ``env`` gives the likeliest value of each symbol; kernels are tuned for it.  ``spatial_ranks``
    are the ranks of images in the graph: only values of these ranks take forms but row-major.
    """

    library: Library | None
    isa: Isa
    threads: int
    env: Mapping[str, int] = field(default_factory=dict)
    spatial_ranks: frozenset[int] = frozenset({3, 4, 5})

    def forms(self, type: object) -> tuple[Form, ...]:
        """Return the forms that a value of this type may have, the default first."""
        if isinstance(type, TensorType) and type.rank in self.spatial_ranks:
            return possible_forms(type)
        return (Form.PLAIN,)
