"""Which end of their tensors kernels begin with: the one that the cache still holds.

A kernel that begins with the first tile leaves the last ones in the L2 cache.  Of a tensor larger
than the cache the next kernel finds nothing there if it begins with the first tile as well: what it
reads takes the place of what it would have read later.  Beginning with the last tile, it finds as
much as the cache holds.
"""

from __future__ import annotations

from lamina.backends.cuda.arena import is_known
from lamina.backends.cuda.target import CudaTarget
from lamina.ir.dims import evaluate
from lamina.ir.graph import Node, Value
from lamina.ir.types import TensorType
from lamina.tactics.candidate import constant


class Directions:
    """Follows the nodes of a program in their order, and what each leaves in the cache."""

    def __init__(self, target: CudaTarget) -> None:
        self._target = target
        self._moved = 0
        """Bytes that took the place of others in the cache."""
        self._touched: dict[Value, tuple[bool, int]] = {}
        """In which direction a value was last gone through, and what had moved then."""

    def backwards(self, node: Node) -> bool:
        """Whether most of what the cache may hold of a node's operands is their first part."""
        gained = 0
        for v in self._operands(node):
            if v in self._touched:
                went_backwards, _ = self._touched[v]
                gained += -self._held(v) if went_backwards else self._held(v)
        return gained > 0

    def went(self, node: Node, *, backwards: bool) -> None:
        """Note in which direction a node goes through its operands and results."""
        operands = self._operands(node)
        self._moved += sum(self._size(v) - self._held(v) for v in operands)
        self._moved += sum(map(self._size, node.outputs))
        for v in (*operands, *node.outputs):
            self._touched[v] = backwards, self._moved

    def _operands(self, node: Node) -> list[Value]:
        """Return what steps wrote: constants are small, and a view is what it is a view of."""
        found = []
        for v in node.inputs:
            if constant(v) is not None:
                continue
            while v not in self._touched and v.node is not None and v.node.inputs:
                v = v.node.inputs[0]
            found.append(v)
        return found

    def _held(self, v: Value) -> int:
        """Return the bytes of a value that the cache may hold."""
        if v not in self._touched:
            return 0
        _, moved = self._touched[v]
        return min(self._size(v), max(0, self._target.l2_bytes - (self._moved - moved)))

    def _size(self, v: Value) -> int:
        env = self._target.env
        if not isinstance(v.type, TensorType) or not is_known(v.tensor.size, env):
            return 0
        return evaluate(v.tensor.size, env) * v.tensor.dtype.itemsize
