"""Orders of axes."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence

_MOST = 8


class Permutation:
    """An order of up to eight axes; what is not given stays in its place."""

    def __init__(self, order: Sequence[int] = ()) -> None:
        """Take the order; raises ValueError for more than eight axes."""
        axes = [operator.index(a) for a in order]
        if len(axes) > _MOST:
            raise ValueError(f"a permutation has at most {_MOST} axes, got {len(axes)}")
        self._order = axes + list(range(len(axes), _MOST))

    def __len__(self) -> int:
        return _MOST

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)

    def __getitem__(self, index: int) -> int:
        return self._order[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._order[index] = operator.index(value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Permutation | list | tuple):
            return NotImplemented
        given = list(other)
        return self._order[: len(given)] == given

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return str(tuple(self._order))

    __repr__ = __str__


__all__ = ["Permutation"]
