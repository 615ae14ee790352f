"""Plugins as decorated functions; see ``lamina.tensorrt.plugin``."""

from __future__ import annotations

import sys

import lamina.tensorrt.plugin as plugin

sys.modules[__name__] = plugin
