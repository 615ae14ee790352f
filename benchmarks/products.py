"""The matrix products and convolutions of a network alone, as torch's libraries compute them.

What they take bounds every engine from below that does not multiply faster than these libraries;
measured in the same seconds it falls and rises with the card's clock.  Needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
_PRODUCTS = (_ATEN.mm.default, _ATEN.addmm.default, _ATEN.convolution.default)
"""Products of attention are left out: they are not computed by themselves."""


class _Recording(TorchDispatchMode):
    """Keeps the products that are computed, with their operands."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        y = func(*args, **(kwargs or {}))
        if func in _PRODUCTS:
            self.calls.append((func, args, kwargs or {}))
            self.operations += 2 * y.numel() * _depth(func, args)
        return y


def _depth(func: Any, args: tuple[Any, ...]) -> int:
    """Return the products that are summed for one element of the result."""
    if func is _ATEN.convolution.default:
        return math.prod(args[1].shape[1:])
    return int(args[-1].shape[0])


def products(module: Any, x: Any) -> tuple[Callable[[], None], int]:
    """Return a function that computes all products of ``module(x)``, and their operations.

    They are computed one after another on the operands that they have in the network.
    """
    torch.backends.mha.set_fastpath_enabled(False)  # one operator that hides its products
    recording = _Recording()
    with torch.no_grad(), recording:
        module(x)

    def compute() -> None:
        for func, args, options in recording.calls:
            func(*args, **options)

    return compute, recording.operations
