"""TensorRT's Python API on top of Lamina: ``import lamina.tensorrt as trt``.

The package speaks for TensorRT 10.x.  The environment variable ``LAMINA_TENSORRT_VERSION`` or
:func:`use` choose another version: ``"8.6"`` (with what programs of 7.x use) or ``"11"``.  Members
and numbers of enumerations, methods and classes are then those of that version.
"""

from __future__ import annotations

from typing import Any

from lamina import config
from lamina.tensorrt import exports, persona
from lamina.tensorrt.foundation.dtype import ALIASES

_EXPORTED: dict[str, Any] = exports.collect()


def use(version: str) -> None:
    """Speak for another version of TensorRT, for the whole process.

    Call it before anything else: members of enumerations that were read before are of the old
    version.  Raises ConfigError for a version that is not known.
    """
    names = globals()
    chosen = persona.find(version)
    hidden = persona.apply(chosen, _EXPORTED)
    aliases = {alias: _EXPORTED["DataType"].named(name) for alias, name in ALIASES.items()}
    aliases |= {
        "ResizeMode": _EXPORTED["InterpolationMode"],
        "SliceMode": _EXPORTED["SampleMode"],
    }
    public = {n: v for n, v in {**_EXPORTED, **aliases}.items() if n not in hidden}
    for name in {*_EXPORTED, *aliases}:
        names.pop(name, None)
    names.update(public)
    names["__version__"] = chosen.version
    names["__all__"] = sorted([*public, "use"])


use(config.tensorrt_version())
