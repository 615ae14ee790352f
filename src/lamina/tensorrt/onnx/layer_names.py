"""Names of parsed layers: those of the nodes that they come from."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lamina.tensorrt.network.layer import ILayer

_OPERATOR = re.compile(r" \([^()]*\)$")
"""What the importer puts behind the name of a node."""


def name_layers(layers: Sequence[ILayer]) -> None:
    """Name layers after their nodes.

    Where a node became several layers the last has the node's name and those before it have a
    number behind it.
    """
    groups: dict[str, list[ILayer]] = {}
    for layer in layers:
        groups.setdefault(_OPERATOR.sub("", layer._name), []).append(layer)
    for name, group in groups.items():
        for number, layer in enumerate(group[:-1]):
            layer._name = f"{name}_{number}"
        group[-1]._name = name
