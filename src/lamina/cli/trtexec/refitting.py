"""Refits of an engine: with the weights of a model, and with its own, to time them."""

from __future__ import annotations

import statistics
import time

import numpy as np

from lamina.cli.trtexec.arguments import Arguments
from lamina.cli.trtexec.console import Console
from lamina.errors import ConfigError
from lamina.tensorrt.engine.cuda_engine import ICudaEngine
from lamina.tensorrt.engine.refitter import Refitter
from lamina.tensorrt.foundation.weights import Weights
from lamina.tensorrt.onnx.refitter import OnnxParserRefitter

_TIMED = 10


def refit(console: Console, a: Arguments, engine: ICudaEngine) -> bool:
    """Give an engine the weights of the model that ``--refitFromOnnx`` names."""
    refitter = Refitter(engine, console)
    started = time.perf_counter()
    parser = OnnxParserRefitter(refitter, console)
    done = parser.refit_from_file(a.text("refitFromOnnx")) and refitter.refit_cuda_engine()
    if done:
        console.info(f"Engine refitted in {time.perf_counter() - started:.6g} sec.")
    return bool(done)


def time_refit(console: Console, engine: ICudaEngine) -> bool:
    """Give an engine its own weights several times, and print how long that takes.

    Raises ConfigError for an engine that cannot be refitted.
    """
    if not engine._metadata.refittable:
        raise ConfigError("--timeRefit: the engine is not refittable", hint="build with --refit")
    refitter = Refitter(engine, console)
    own = engine._engine.weights()
    names = [name for name in refitter.get_all_weights() if name in own]
    seconds = []
    for _ in range(_TIMED):
        for name in names:
            array = np.ascontiguousarray(own[name])
            if not refitter.set_named_weights(name, Weights(array)):
                return False
        started = time.perf_counter()
        if not refitter.refit_cuda_engine():
            return False
        seconds.append(time.perf_counter() - started)
    console.info(
        f"Refit of {len(names)} weights ({sum(own[n].nbytes for n in names)} bytes), {_TIMED} "
        f"times: median = {statistics.median(seconds) * 1e3:.6g} ms, min = "
        f"{min(seconds) * 1e3:.6g} ms, max = {max(seconds) * 1e3:.6g} ms"
    )
    return True
