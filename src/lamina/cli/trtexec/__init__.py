"""``lamina trtexec``: builds engines and measures them, with trtexec's options and output."""

from __future__ import annotations

import runpy
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import typer

from lamina.cli.trtexec import exporting, specs, summary
from lamina.cli.trtexec.accuracy import check
from lamina.cli.trtexec.arguments import Arguments, help_lines, parse
from lamina.cli.trtexec.buffers import arena_bytes, host_inputs, runs_of
from lamina.cli.trtexec.building import build, deserialized, load, time_deserialization
from lamina.cli.trtexec.console import Console
from lamina.cli.trtexec.measuring import Limits, Measured, measure
from lamina.cli.trtexec.refitting import refit, time_refit
from lamina.cli.trtexec.settings import byte_count
from lamina.cli.trtexec.trace import print_summary, print_trace, warn_if_enqueue_bound
from lamina.errors import ConfigError, ExecutionError, LaminaError
from lamina.runtime.engine import find_driver
from lamina.tensorrt import platform
from lamina.tensorrt.engine.cuda_engine import ICudaEngine
from lamina.tensorrt.engine.inspector import EngineInspector
from lamina.tensorrt.enums import LayerInformationFormat
from lamina.tensorrt.persona import current

CONTEXT_SETTINGS = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}
"""The words of the command line are read here and not by typer."""

_LEAST_PROFILED = 10


def command(context: typer.Context) -> None:
    """Build and time engines with trtexec's options and output."""
    code = run(context.args, "trtexec")
    if code:
        raise typer.Exit(code)


def main() -> None:
    """Run the command line of this process."""
    sys.exit(run(sys.argv[1:], "trtexec"))


def run(words: Sequence[str], program: str) -> int:
    """Run trtexec and return its exit code: 0 where it prints PASSED, else 1."""
    title = summary.title([program, *words])
    print(f"&&&& RUNNING {title}", flush=True)
    console = Console(least="VERBOSE" if "--verbose" in words else "INFO")
    try:
        passed = _run(console, parse(words))
    except (LaminaError, OSError) as e:
        console.error(str(e))
        passed = False
    except KeyboardInterrupt:
        console.error("interrupted")
        passed = False
    print(f"&&&& {'PASSED' if passed else 'FAILED'} {title}", flush=True)
    return 0 if passed else 1


def _run(console: Console, a: Arguments) -> bool:
    if a.has("help"):
        print("\n".join(help_lines()))
        return True
    if not a.has("onnx") and not a.has("loadEngine"):
        print("\n".join(help_lines()))
        raise ConfigError("Model missing or format not recognized", hint="give --onnx=FILE")
    if a.integer("useDLACore") >= 0:
        raise ConfigError("--useDLACore: there are no DLA cores")
    _choose_device(a.integer("device"))
    summary.print_options(console, a)
    summary.print_device(console)
    for option in ("staticPlugins", "dynamicPlugins"):
        for path in specs.split(a.text(option)):
            _run_plugin(option, path)
    data = load(console, a) if a.has("loadEngine") else build(console, a)
    if data is None:
        console.error("Engine could not be created from network")
        console.error("Building engine failed")
        return False
    return _use(console, a, data)


def _choose_device(number: int) -> None:
    """Make a GPU current, so that engines are loaded there; raises ConfigError for none."""
    if number == 0:
        return
    found: Any = find_driver(f"cuda:{number}", 0) if platform.device() == "cuda" else None
    if found is None or found.device is None:
        why = "no GPU is used" if found is None else found.missing.splitlines()[0]
        raise ConfigError(f"--device={number}: {why}")
    found.device.enter()


def _run_plugin(option: str, path: str) -> None:
    """Run a file that registers plugins; raises ConfigError, with its traceback, when it fails."""
    try:
        runpy.run_path(path)
    except FileNotFoundError as e:
        raise ConfigError(f"--{option}: there is no file {path!r}") from e
    except Exception as e:
        raise ConfigError(f"--{option}: {path!r} fails:\n{traceback.format_exc()}") from e


def _use(console: Console, a: Arguments, data: bytes) -> bool:
    """Deserialize an engine, and measure it unless the options say otherwise."""
    if a.has("timeDeserialize"):
        time_deserialization(console, data)
    engine = deserialized(console, data)
    if engine is None:
        console.error("Engine deserialization failed")
        return False
    if a.has("getPlanVersionOnly"):
        console.info(f"Plan was created with TensorRT version {engine._metadata.version}")
        return True
    _describe(console, a, engine)
    if a.has("refitFromOnnx") and not refit(console, a, engine):
        return False
    if a.has("timeRefit") and not time_refit(console, engine):
        return False
    if a.has("timeDeserialize"):
        return True
    if a.has("weightStreamingBudget"):
        _stream_weights(console, a, engine)
    if a.has("skipInference"):
        console.info("Skipped inference phase since --skipInference is added.")
        return True
    if a.has("loadRefOutputs") and not check(console, a, engine):
        console.error("Outputs differ from the reference outputs")
        return False
    _infer(console, a, engine)
    return True


def _describe(console: Console, a: Arguments, engine: ICudaEngine) -> None:
    inspector = EngineInspector(engine)
    if a.has("dumpLayerInfo"):
        console.info("Layer Information:")
        console.info(
            inspector.get_engine_information(LayerInformationFormat.named("ONELINE")).rstrip()
        )
    if a.has("exportLayerInfo"):
        text = inspector.get_engine_information(LayerInformationFormat.named("JSON"))
        with open(a.text("exportLayerInfo"), "w") as f:
            f.write(text)
    if a.has("dumpRefit"):
        for weights in engine._metadata.weights:
            console.info(f"[{weights.layer}, {weights.role}] {weights.name}")
    if a.has("dumpOptimizationProfile"):
        for i, profile in enumerate(engine._metadata.profiles):
            console.info(f"Optimization Profile {i}:")
            for name, shapes in profile.shapes.items():
                low, opt, high = map(specs.text_of, shapes)
                console.info(f"  {name}: min={low}, opt={opt}, max={high}")


def _stream_weights(console: Console, a: Arguments, engine: ICudaEngine) -> None:
    """Choose how many weights lie on the GPU: -2 all, -1 automatic, a share, or bytes."""
    text, everything = a.text("weightStreamingBudget"), engine.streamable_weights_size
    if text == "-2":
        budget = everything
    elif text == "-1":
        budget = engine.get_weight_streaming_automatic_budget()
    elif text.endswith("%"):
        budget = round(everything * specs.percentiles(text[:-1])[0] / 100)
    else:
        budget = byte_count("weightStreamingBudget", text, "B")
    engine.weight_streaming_budget_v2 = budget
    console.info(
        f"Weight streaming budget: {engine.weight_streaming_budget_v2} of {everything} bytes"
    )


def _infer(console: Console, a: Arguments, engine: ICudaEngine) -> None:
    inputs = host_inputs(console, a, engine)
    for name, array in inputs.items():
        source = "file" if name in specs.pairs(a.text("loadInputs")) else "random values"
        console.info(f"Using {source} for input {name}")
        console.info(f"Input binding for {name} is {specs.text_of(array.shape)}.")
    transfers = a.has("includeDataTransfers") or (
        current().major != "11" and not a.has("noDataTransfers")
    )
    streams = a.integer("infStreams")
    if streams < 1:
        raise ConfigError(f"--infStreams={streams}: at least one is needed")
    given = arena_bytes(a, engine, inputs)
    contexts = [
        runs_of(
            engine._engine,
            inputs,
            transfers=transfers,
            arena_bytes=given,
            profile=a.integer("useProfile"),
        )
        for _ in range(streams)
    ]
    time.sleep(a.number("sleepTime") / 1000)
    console.info("Starting inference")
    limits = Limits(
        iterations=a.integer("iterations"),
        seconds=a.number("duration"),
        warm_ms=a.number("warmUp"),
        idle_ms=a.number("idleTime"),
    )
    measured = measure(contexts, limits)
    _report(console, a, measured, contexts)
    _keep(console, a, engine, contexts[0], inputs)


def _report(console: Console, a: Arguments, measured: Measured, contexts: list[Any]) -> None:
    console.info(f"Warmup completed {measured.warm_runs} queries over {measured.warm_ms:.0f} ms")
    console.info(
        f"Timing trace has {len(measured.runs)} queries over {measured.wall_seconds:.6g} s"
    )
    console.info()
    if not measured.runs:
        raise ExecutionError("no run was measured", hint="raise --iterations or --duration")
    print_trace(console, measured.runs, max(1, a.integer("avgRuns")))
    percents = specs.percentiles(a.text("percentile"))
    print_summary(console, measured.runs, measured.wall_seconds, percents)
    if len(contexts) > 1:
        console.warning("* Several contexts run side by side: times of single runs overlap.")
    elif getattr(contexts[0], "starts_early", False):
        warn_if_enqueue_bound(console, measured.runs)
    if a.has("exportTimes"):
        exporting.export_times(a.text("exportTimes"), measured.runs)


def _keep(console: Console, a: Arguments, engine: ICudaEngine, context: Any, inputs: Any) -> None:
    """Print and write outputs and the times of layers, as far as the options ask for it."""
    if a.has("dumpOutput"):
        exporting.dump_outputs(console, context.outputs())
    if a.has("exportOutput"):
        exporting.export_outputs(a.text("exportOutput"), context.outputs())
    if a.has("dumpRawBindingsToFile"):
        exporting.dump_raw(inputs, "input")
        exporting.dump_raw(context.outputs(), "output")
    debug = context.outputs() if a.has("saveDebugTensors") else {}
    for name, path in specs.pairs(a.text("saveDebugTensors")).items():
        if name not in engine._metadata.debug_tensors:
            raise ConfigError(f"tensor {name!r} was not marked with --markDebug")
        debug[name].tofile(path)
    if a.has("saveAllDebugTensors"):
        marked = set(engine._metadata.debug_tensors)
        shown = {n: v for n, v in context.outputs().items() if n in marked}
        exporting.dump_debug(console, shown, specs.split(a.text("saveAllDebugTensors")))
    if a.has("dumpProfile") or a.has("exportProfile"):
        count = max(_LEAST_PROFILED, a.integer("iterations"))
        times = [context.profile() for _ in range(count)]
        layers = exporting.LayerTimes(engine._layer_names(a.integer("useProfile")), times)
        if a.has("dumpProfile"):
            layers.dump(console)
        if a.has("exportProfile"):
            layers.export(a.text("exportProfile"))
