"""Where a layer comes from, out of the text of its location.

A location is the name of a node of the source model, ``conv1 (Conv)``, of one of its constants, or
a fusion of several by a rule: ``FuseActivation(conv1 (Conv), relu1 (Relu))``.
"""

from __future__ import annotations

import re
from typing import Final

_FUSION: Final = re.compile(r"([A-Z]\w*)\((.*)\)", re.DOTALL)


def origins(loc: str) -> list[str]:
    """Return the nodes that a location is made of, each once; its constants if it has no nodes."""
    leaves = list(dict.fromkeys(_leaves(loc)))
    return [leaf for leaf in leaves if leaf.endswith(")")] or leaves


def _leaves(loc: str) -> list[str]:
    fusion = _FUSION.fullmatch(loc)
    if fusion is None:
        return [loc]
    return [leaf for part in _parts(fusion[2]) for leaf in _leaves(part)]


def _parts(text: str) -> list[str]:
    """Split at the commas outside of parentheses."""
    parts, depth, begin = [], 0, 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0 and text.startswith(", ", i):
            parts.append(text[begin:i])
            begin = i + 2
    return [*parts, text[begin:]]


def short_origin(loc: str) -> str:
    """Return the node of a layer, or the bare names of several."""
    nodes = origins(loc)
    return nodes[0] if len(nodes) == 1 else " + ".join(n.partition(" (")[0] for n in nodes)
