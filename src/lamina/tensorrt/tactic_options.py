"""What a builder's configuration says about tactics, as options of a build."""

from __future__ import annotations

from typing import Any

from lamina.config import LIBRARIES
from lamina.tensorrt.algorithms import SelectorAdapter
from lamina.tensorrt.builder_config import POOL_BYTES, IBuilderConfig
from lamina.tensorrt.enums import TacticSource
from lamina.tensorrt.option import names

_PRODUCTS = frozenset({"CUBLAS", "CUBLAS_LT"})
_SOURCES = {
    "onednn": _PRODUCTS | {"CUDNN"},
    "cublaslt": _PRODUCTS,
    "cudnn": frozenset({"CUDNN"}),
}
"""The tactic sources of which one must be allowed for a library to be used."""


def tactic_options(config: IBuilderConfig) -> dict[str, Any]:
    """Return the options of BuildConfig that decide which tactics there are and how they are timed.

    The other tactic sources are kinds of Lamina's own kernels, which are always allowed.
    """
    selector = None
    if config._selector is not None:
        reject = bool(config._flags & {"REJECT_EMPTY_ALGORITHMS", "STRICT_TYPES"})
        selector = SelectorAdapter(config._selector, reject_empty=reject)
    limit, given = config._pools["WORKSPACE"], config.__dict__  # some personas lack some options
    shared = config._pools.get("TACTIC_SHARED_MEMORY", POOL_BYTES["TACTIC_SHARED_MEMORY"])
    return {
        "shared_bytes": None if shared == POOL_BYTES["TACTIC_SHARED_MEMORY"] else max(1, shared),
        "optimization_level": config._level,
        "libraries": _libraries(config),
        "workspace_bytes": None if limit == POOL_BYTES["WORKSPACE"] else limit,
        "most_tactics": max(0, given.get("max_num_tactics", 0)),
        "timing_average": max(1, given.get("avg_timing_iterations", 1)),
        "timing_runs": max(1, given.get("min_timing_iterations", 1)),
        "selector": selector,
    }


def _libraries(config: IBuilderConfig) -> tuple[str, ...] | None:
    """Return the libraries that the tactic sources allow, None where nothing was said of them."""
    if config._previews.get("DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805"):
        return ()
    known = TacticSource.__members__.keys() & {s for needed in _SOURCES.values() for s in needed}
    if config._tactic_sources is None or not known:
        return None
    allowed = names(TacticSource, config._tactic_sources)
    return tuple(library for library in LIBRARIES if allowed & _SOURCES[library])
