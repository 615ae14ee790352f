"""Shapes."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

_MOST = 8


class Dims:
    """Up to eight sizes; -1 stands for a size that is known only when the network runs."""

    MAX_DIMS: ClassVar[int] = _MOST

    def __init__(self, shape: Sequence[int] = ()) -> None:
        """Take sizes; raises ValueError for more than eight and TypeError for no integers."""
        sizes = [operator.index(d) for d in shape]
        if len(sizes) > _MOST:
            raise ValueError(f"Dims has at most {_MOST} dimensions, got {len(sizes)}")
        self._sizes = sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[int]:
        return iter(self._sizes)

    def __getitem__(self, index: Any) -> Any:
        found = self._sizes[index]
        return tuple(found) if isinstance(found, list) else found

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(index, slice):
            if len(self._sizes[index]) != len(value):
                raise ValueError("the number of dimensions cannot change")
            self._sizes[index] = [operator.index(d) for d in value]
        else:
            self._sizes[index] = operator.index(value)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Dims):
            return self._sizes == other._sizes
        if isinstance(other, list | tuple):
            return self._sizes == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return str(tuple(self._sizes))

    __repr__ = __str__


def _exactly(count: int, sizes: tuple[Any, ...]) -> Sequence[int]:
    """Return sizes given one by one or as one sequence; ``count`` zeros for none."""
    if not sizes:
        return (0,) * count
    given: Sequence[int] = sizes[0] if len(sizes) == 1 else sizes
    if len(given) != count:
        raise ValueError(f"expected {count} dimensions, got {len(given)}")
    return given


class Dims2(Dims):
    """Two sizes."""

    def __init__(self, *sizes: Any) -> None:
        super().__init__(_exactly(2, sizes))


class DimsHW(Dims2):
    """Height and width."""

    @property
    def h(self) -> int:
        """Height."""
        return self._sizes[0]

    @h.setter
    def h(self, value: int) -> None:
        self._sizes[0] = operator.index(value)

    @property
    def w(self) -> int:
        """Width."""
        return self._sizes[1]

    @w.setter
    def w(self, value: int) -> None:
        self._sizes[1] = operator.index(value)


class Dims3(Dims):
    """Three sizes."""

    def __init__(self, *sizes: Any) -> None:
        super().__init__(_exactly(3, sizes))


class Dims4(Dims):
    """Four sizes."""

    def __init__(self, *sizes: Any) -> None:
        super().__init__(_exactly(4, sizes))


__all__ = ["Dims", "Dims2", "Dims3", "Dims4", "DimsHW"]
