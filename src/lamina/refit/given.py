"""The weights that a refit is given, checked and copied."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from lamina.errors import InputError
from lamina.ir.recipe import Array
from lamina.ir.weight import Weight
from lamina.plan.halves import Astype
from lamina.plan.named import NamedWeights
from lamina.refit.in_threads import in_threads
from lamina.refit.memory import places, total_of
from lamina.runtime.driver import WeightMemory

_LEAST_SHARE_BYTES: Final = 1 << 20
"""What a thread of its own pays for."""

_SMALL_BYTES: Final = 32 << 10
"""Weights up to this lie one behind the other, wherever that is."""


_Part = tuple[str, Array, Array]
"""A weight's name, and a part of its new contents with the place for it in front."""


class Given:
    """New contents of some weights, checked against the weights that they replace."""

    def __init__(
        self,
        known: NamedWeights,
        weights: Mapping[str, Any],
        astype: Astype,
        memory: Callable[[int], WeightMemory | None],
    ) -> None:
        self._known, self._astype = known, astype
        self.arrays = {name: _checked(name, given, known) for name, given in weights.items()}
        self._copies = self._small_copies()
        large = self.arrays.keys() - self._copies.keys()
        described = known.described
        sizes = {n: self.arrays[n].size * described[n].dtype.itemsize for n in sorted(large)}
        self._memory = memory(total_of(sizes)) if sizes else None
        self._places = places(sizes, None if self._memory is None else self._memory.bytes)

    def _small_copies(self) -> dict[str, Array]:
        """Return copies of all small weights that need no conversion, made at once."""
        together: defaultdict[np.dtype[Any], list[str]] = defaultdict(list)
        for name, array in self.arrays.items():
            dtype = self._known.described[name].dtype
            if array.nbytes < _SMALL_BYTES and array.dtype == dtype and not dtype.hasobject:
                together[dtype].append(name)
        copies = {}
        for names in together.values():
            arrays = [self.arrays[name] for name in names]
            flat = np.concatenate([array.reshape(-1) for array in arrays])
            end = 0
            for name, array in zip(names, arrays, strict=True):
                begin, end = end, end + array.size
                copies[name] = flat[begin:end].reshape(array.shape)
        return copies

    def copy(self, threads: int) -> None:
        """Copy all weights that are not small, in parallel, and let the device know of them."""
        names = [n for n in self.arrays if n not in self._copies]
        names = [n for n in names if not self._known.described[n].dtype.hasobject]
        in_threads(self._copy_all, self._shares(names, threads), threads)
        self._copies |= {name: self._place(name) for name in names}
        if self._memory is not None and names:
            self._memory.written(0, self._memory.bytes.nbytes)

    def _shares(self, names: Sequence[str], threads: int) -> list[list[_Part]]:
        """Divide weights into equal shares: threads that often ask for more hinder each other."""
        total = sum(self.arrays[name].nbytes for name in names)
        share = max(-(-total // threads), _LEAST_SHARE_BYTES)
        shares: list[list[_Part]] = [[]]
        room = share
        for name in names:
            array, place = self.arrays[name], self._place(name)
            if not array.flags.c_contiguous:
                shares[-1].append((name, place, array))
                continue
            source, target = array.reshape(-1), place.reshape(-1)
            while source.size:
                count = max(1, room // array.itemsize)
                shares[-1].append((name, target[:count], source[:count]))
                room -= source[:count].nbytes
                source, target = source[count:], target[count:]
                if room < array.itemsize:
                    shares.append([])
                    room = share
        return shares

    def _copy_all(self, share: list[_Part]) -> None:
        for part in share:
            self._copy(*part)

    def _place(self, name: str) -> Array:
        dtype = self._known.described[name].dtype
        return self._places[name].view(dtype).reshape(self.arrays[name].shape)

    def _copy(self, name: str, target: Array, source: Array) -> None:
        if source.dtype == target.dtype:
            np.copyto(target, source)
            return
        _check_limit(name, source)
        np.copyto(target, self._astype(source, target.dtype))

    def copies(self) -> dict[str, Weight]:
        """Return the weights; the caller's arrays may change from then on."""
        return {name: Weight(self.contents(name), name) for name in self.arrays}

    def changes(self, name: str) -> bool:
        """Whether a weight gets other contents than it has."""
        return not _same(self.contents(name), self._known[name].contents)

    def contents(self, name: str) -> Array:
        """Return the contents of a weight, given or kept; may be called from any thread."""
        copy = self._copies.get(name)
        if copy is not None:
            return copy
        if name not in self.arrays:
            return self._known[name].contents
        if name not in self._copies:
            array = self.arrays[name]
            if self._known.described[name].dtype.hasobject:  # strings
                self._copies[name] = np.array(array, order="C")
                return self._copies[name]
            copy = self._place(name)
            self._copy(name, copy, array)
            self._copies[name] = copy
        return self._copies[name]


def _same(a: Array, b: Array) -> bool:
    if a.dtype == object:
        return bool(a.tolist() == b.tolist())
    return a.tobytes() == b.tobytes()


def _checked(name: str, given: Any, known: NamedWeights) -> Array:
    """Return new contents as an array; raises InputError when they do not fit."""
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.0)
        hint = f"the nearest are {', '.join(near)}" if near else "none of its weights has a name"
        raise InputError(f"the plan has no weight {name!r}", hint=hint)
    array, wanted = np.asarray(given), known.described[name]
    # With precision="fp16" a plan keeps its weights as halves.
    fits = wanted.dtype == np.float16 and array.dtype == np.float32
    if (array.dtype != wanted.dtype and not fits) or array.shape != wanted.shape:
        raise InputError(
            f"weight {name!r} is {wanted.dtype}{list(wanted.shape)}, the array given for it is "
            f"{array.dtype}{list(array.shape)}"
        )
    return array


def _check_limit(name: str, array: Array) -> None:
    """Raise InputError for f32 numbers that are too large for f16, in which a plan keeps them."""
    limit = np.finfo(np.float16).max
    largest = max(array.max(initial=0), -array.min(initial=0))
    if largest > limit:
        raise InputError(
            f"weight {name!r} is kept as f16, whose largest number is {limit:g}; {largest:g} was "
            f"given",
            hint="build the plan with precision='fp32' or 'bf16'",
        )
