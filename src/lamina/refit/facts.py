"""What is known of the recipes of a section whatever the weights are, found once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import reduce
from operator import or_
from weakref import WeakKeyDictionary

from lamina.ir.recipe import SOURCE
from lamina.plan.recipes import Recipes
from lamina.refit.batches import Batches
from lamina.refit.movements import Look, Template


class Facts:
    """What is known of recipes whatever the weights are."""

    def __init__(self, recipes: Recipes) -> None:
        self._bits = {name: 1 << i for i, name in enumerate(recipes.sources)}
        self.behind: list[int] = []
        """For each step a bit for each weight that it depends on."""
        self.largest: list[int] = []
        """The elements of the largest of them."""
        for step in recipes.steps:
            if step.function == SOURCE:
                (name,) = step.arguments
                self.behind.append(self._bits[name])
                self.largest.append(recipes.sources[name].elements)
            else:
                self.behind.append(reduce(or_, (self.behind[n] for n in step.operands), 0))
                self.largest.append(max((self.largest[n] for n in step.operands), default=0))
        readers = Counter(n for step in recipes.steps for n in step.operands)
        readers.update(recipes.blobs.values())
        self.shared = {n: count for n, count in readers.items() if count > 1}
        self.batches = Batches(recipes)
        self.templates: dict[int, tuple[Template, ...]] = {}
        """What steps come to, as far as it was asked for."""
        self.looks: dict[int, Look | None] = {}
        """What guards see in large values, as far as it was asked for."""

    def mask(self, names: Iterable[str]) -> int:
        """Return the bits of some weights."""
        return sum(self._bits.get(name, 0) for name in set(names))


_KNOWN: WeakKeyDictionary[Recipes, Facts] = WeakKeyDictionary()


def facts_of(recipes: Recipes) -> Facts:
    """Return the facts of recipes; damaged ones raise whatever they run into."""
    if recipes not in _KNOWN:
        _KNOWN[recipes] = Facts(recipes)
    return _KNOWN[recipes]
