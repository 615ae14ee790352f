"""Steps that decide a size of their result: they run in memory for the largest one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lamina.backends.cpu.native import Words, address
from lamina.backends.cpu.resources import Resources
from lamina.backends.cpu.segment import Location, Memory, Segment
from lamina.errors import ExecutionError
from lamina.ir.dims import evaluate
from lamina.plan.plan import COUNT, Program, Step


class CountedStep:
    """One counted step for known sizes of its operands; ``memory`` says where these are."""

    def __init__(
        self,
        resources: Resources,
        program: Program,
        step: Step,
        memory: Memory,
        pointers: Words,
        env: Mapping[str, int],
    ) -> None:
        self.step, self.memory = step, memory
        self.env = dict(env)
        self.most = evaluate(step.parameters[-1], env)
        self.size_bytes = program.tensors[step.writes[0]].size_bytes
        self._slot = np.zeros(1, np.int64)
        self._result = resources.allocate(self._bytes(self.most))
        self._segment = Segment(resources, [step], self, pointers, env)

    def _bytes(self, count: int) -> int:
        return evaluate(self.size_bytes, self.env | {self.step.defines[0]: count})

    def locate(self, tensor: int) -> Location:
        """Return where an operand, the result or the count is."""
        if tensor == COUNT:
            return Location(address(self._slot))
        if tensor == self.step.writes[0]:
            return Location(address(self._result))
        return self.memory.locate(tensor)

    @property
    def workspace_bytes(self) -> int:
        """Return the bytes of scratch memory and of the largest result."""
        return self._segment.workspace_bytes + self._result.size

    def run(self) -> tuple[int, np.ndarray]:
        """Run the step; return the size that it decided and the bytes of the result."""
        self._segment.run()
        count = int(self._slot[0])
        if not 0 <= count <= self.most:
            raise ExecutionError(f"{self.step.name} found {count} of at most {self.most} results")
        return count, self._result[: self._bytes(count)]
