"""The standard plugins, composed of operators; importing this makes them known.

``init_libnvinfer_plugins`` registers them.
"""

from __future__ import annotations

from functools import partial

from lamina.tensorrt.plugin_api.registry import STANDARD
from lamina.tensorrt.plugin_api.standard import boxes, pointwise
from lamina.tensorrt.plugin_api.standard.definition import StandardCreator

STANDARD.extend(partial(StandardCreator, d) for d in (*pointwise.DEFINITIONS, *boxes.DEFINITIONS))

__all__: list[str] = []
