"""Element types, formats and tactics that decorated plugins offer: ``AutoTuneCombination``.

``"FP32|FP16, FP32|FP16"`` ties the types of tensors together: all take their first choice, or all
their second.  ``"FP32*FP16, FP32"`` lets each choose by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

from lamina.tensorrt.enums import DataType

_NAMES = {"FP32": "FLOAT", "FP16": "HALF"}
_TIED, _FREE = "|", "*"


class AutoTuneCombination:
    """Types and formats of operands and results, and tactics, to try."""

    def __init__(
        self,
        io_types: str | None = None,
        layouts: str | None = None,
        tactics: Iterable[int] | None = None,
    ) -> None:
        """Take a list of types and one of formats (``"LINEAR"`` for all of them), and tactics."""
        self.io_types: list[str | None] = _listed(io_types)
        self.layouts: list[str | None] = _listed(layouts) or ["LINEAR"]
        if len(self.layouts) == 1:
            self.layouts *= len(self.io_types)
        if len(self.layouts) != len(self.io_types):
            raise ValueError(
                f"{len(self.layouts)} formats are given for {len(self.io_types)} tensors"
            )
        self._tactics = list(tactics or ())

    def pos(self, pos: int | Iterable[int], io_types: str, layouts: str = "LINEAR") -> None:
        """Set types and formats of some tensors; ValueError where they are set already."""
        for p in [pos] if isinstance(pos, int) else pos:
            missing = p + 1 - len(self.io_types)
            self.io_types += [None] * missing
            self.layouts += [None] * missing
            if self.io_types[p] is not None:
                raise ValueError(f"the types of tensor {p} are set already")
            self.io_types[p], self.layouts[p] = io_types.strip(), layouts.strip()

    def tactics(self, tactics: Iterable[int]) -> None:
        """Set the tactics, positive numbers."""
        self._tactics = list(tactics)

    def _allows(self, types: Sequence[DataType]) -> bool:
        """Whether tensors of these types, all linear, are among the combinations."""
        wanted = [t.name for t in types]
        linear = ["LINEAR"] * len(types)
        return wanted in _combined(self.io_types) and linear in _combined(self.layouts)


def _listed(text: str | None) -> list[str | None]:
    return [] if text is None else [part.strip() for part in text.split(",")]


def _combined(choices: Sequence[str | None]) -> list[list[str]]:
    """Return every combination that the choices of each tensor allow; ValueError for wrong ones."""
    tied = {len(c.split(_TIED)) for c in choices if c is not None and _TIED in c}
    if len(tied) > 1 or any(c and _TIED in c and _FREE in c for c in choices):
        raise ValueError(f"{choices} cannot be combined: tied choices must be of one number")
    found = []
    for number in range(max(tied, default=1)):
        options = [_options(c, number) for c in choices]
        found += [[_NAMES.get(name, name) for name in row] for row in product(*options)]
    return found


def _options(choice: str | None, number: int) -> list[str]:
    if choice is None:
        return [""]
    if _TIED in choice:
        return [choice.split(_TIED)[number].strip()]
    return [name.strip() for name in choice.split(_FREE)]


def valid_tactics(
    offered: Sequence[AutoTuneCombination], types: Sequence[DataType]
) -> list[int] | None:
    """Return the tactics for linear tensors of these types, None where nothing allows them."""
    fitting = [c for c in offered if c._allows(types)]
    if offered and not fitting:
        return None
    return list(dict.fromkeys(t for c in fitting for t in c._tactics))
