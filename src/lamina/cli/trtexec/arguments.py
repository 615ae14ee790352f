"""The options of ``trtexec``: one table from which parsing and ``--help`` come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from lamina.errors import ConfigError


@dataclass(frozen=True)
class Option:
    """One option; ``takes`` describes its value, "" for a switch.

    ``ignored`` says why it changes nothing here.
    """

    name: str
    takes: str
    help: str
    default: str = ""
    aliases: tuple[str, ...] = ()
    ignored: str = ""


_DLA = "there are no DLA cores"
_ONE = "Lamina measures and compiles in one way"
_MEMORY = "memory is planned by Lamina"

MODEL: Final = (Option("onnx", "FILE", "ONNX model"),)
BUILD: Final = (
    Option("minShapes", "SPEC", "smallest shapes of dynamic inputs: x:1x3x8x8,y:1x4"),
    Option("optShapes", "SPEC", "likeliest shapes; alone, the only ones"),
    Option("maxShapes", "SPEC", "largest shapes of dynamic inputs"),
    Option("minShapesCalib", "SPEC", "shapes for calibration", ignored="calibration uses opt"),
    Option("optShapesCalib", "SPEC", "shapes for calibration"),
    Option("maxShapesCalib", "SPEC", "shapes for calibration", ignored="calibration uses opt"),
    Option("profile", "N", "number of the profile that the shapes after it belong to"),
    Option("inputIOFormats", "SPEC", "types and formats of the inputs: fp16:chw+hwc8,..."),
    Option("outputIOFormats", "SPEC", "types and formats of the outputs: fp16:chw,..."),
    Option("memPoolSize", "SPEC", "limits of memory pools: workspace:512,tacticSharedMem:48K"),
    Option("workspace", "MIB", "limit of the workspace"),
    Option("profilingVerbosity", "MODE", "layer_names_only, detailed or none", "layer_names_only"),
    Option("avgTiming", "N", "measurements averaged for each tactic", "8"),
    Option("refit", "", "let weights be replaced"),
    Option("stripWeights", "", "leave weights out of the engine, for a refit to give them"),
    Option("stripAllWeights", "", "the same, and let all of them be replaced by others"),
    Option("weightless", "", "the same as --stripWeights"),
    Option("refitFromOnnx", "FILE", "refit the engine with the weights of this model"),
    Option("versionCompatible", "", "run with other versions too", aliases=("vc",)),
    Option("excludeLeanRuntime", "", "leave out what other versions need"),
    Option("leanDLLPath", "FILE", "lean runtime", ignored="engines need no runtime"),
    Option("useRuntime", "NAME", "runtime", "full", ignored="there is one runtime"),
    Option("sparsity", "SPEC", "sparse kernels", "disable", ignored="there are none"),
    Option("noTF32", "", "no TF32 in matrix products"),
    Option("fp16", "", "allow half precision"),
    Option("bf16", "", "allow bfloat16"),
    Option("int8", "", "allow 8-bit integers"),
    Option("fp8", "", "allow 8-bit floats"),
    Option("int4", "", "allow 4-bit integers"),
    Option("best", "", "allow every precision"),
    Option("stronglyTyped", "", "types are what the model says"),
    Option("calib", "FILE", "calibration cache with the ranges for --int8"),
    Option("calibProfile", "N", "profile for calibration", "0", ignored="the first is used"),
    Option("precisionConstraints", "MODE", "none, obey or prefer", "none"),
    Option("layerPrecisions", "SPEC", "precision of layers: conv:fp32,*:fp16"),
    Option("layerOutputTypes", "SPEC", "types of results of layers: conv:fp32+fp32"),
    Option("layerDeviceTypes", "SPEC", "devices of layers: conv:DLA,*:GPU"),
    Option("directIO", "", "no reformatting of inputs and outputs"),
    Option("saveEngine", "FILE", "write the engine"),
    Option("loadEngine", "FILE", "read an engine in place of a model"),
    Option("asyncFileReader", "", "read engines asynchronously", ignored=_ONE),
    Option("getPlanVersionOnly", "", "print the version of --loadEngine and stop"),
    Option("tacticSources", "SPEC", "libraries to use or not: +CUBLAS,-CUDNN"),
    Option("noBuilderCache", "", "do not keep times of kernels"),
    Option("noCompilationCache", "", "do not keep compiled kernels"),
    Option("errorOnTimingCacheMiss", "", "fail for unknown times"),
    Option("timingCacheFile", "FILE", "read and write times of kernels", aliases=("timingCache",)),
    Option("preview", "SPEC", "+profileSharing0806,-...", ignored="no feature changes a build"),
    Option("builderOptimizationLevel", "N", "how long to search, 0 to 5"),
    Option("maxTactics", "N", "most tactics to time for a layer, -1 to decide", "-1"),
    Option("hardwareCompatibilityLevel", "MODE", "on which devices the engine must run", "none"),
    Option("runtimePlatform", "NAME", "where the engine will run", "SameAsBuild"),
    Option("tempdir", "FOLDER", "folder of temporary files", ignored="none are written"),
    Option("tempfileControls", "SPEC", "temporary files", ignored="none are written"),
    Option("maxAuxStreams", "N", "most streams beside the caller's"),
    Option("allowWeightStreaming", "", "let weights stay on the host, see --weightStreamingBudget"),
    Option("markDebug", "NAMES", "tensors to keep for --saveDebugTensors"),
    Option("markUnfusedTensorsAsDebugTensors", "", "keep unfused tensors"),
    Option("tilingOptimizationLevel", "N", "tiling across layers, 0 to 3", ignored=_ONE),
    Option("l2LimitForTiling", "BYTES", "bytes of L2 for tiling", ignored=_ONE),
    Option("decomposableAttentions", "SPEC", "attention", ignored="any attention is taken apart"),
    Option("pluginInstanceNorm", "", "InstanceNorm plugin", aliases=("pi",), ignored=_ONE),
    Option("enablePluginOverride", "", "plugins go before operators of the same name"),
    Option("uint8AsymmetricQuantizationDLA", "", "DLA", ignored=_DLA),
    Option("reportCapabilityDLA", "", "DLA", ignored=_DLA),
    Option("adjustForDLA", "", "DLA", ignored=_DLA),
    Option("buildDLAStandalone", "", "DLA", ignored=_DLA),
    Option("allowGPUFallback", "", "layers that a DLA cannot run go to the GPU"),
    Option("consistency", "", "safety checks", ignored="there is no safety runtime"),
    Option("safe", "", "safety", ignored="there is no safety runtime"),
    Option("restricted", "", "safety", ignored="there is no safety runtime"),
    Option("cpuOnly", "", "build without a GPU"),
    Option("dumpKernelText", "", "kernels as text", ignored="see lamina inspect"),
    Option("remoteAutoTuningConfig", "SPEC", "remote tuning", ignored=_ONE),
    Option("monitorMemory", "", "report memory", ignored="see lamina inspect"),
    Option("explicitBatch", "", "batch in every shape", ignored="always"),
    Option("minTiming", "N", "least number of measurements of a tactic", "1"),
    Option("heuristic", "", "heuristics", ignored=_ONE),
    Option("setBuildRoute", "SPEC", "route of the build", ignored="there is one"),
    Option("tuneBuildRoutes", "SPEC", "routes of builds", ignored="there is one"),
    Option("tuneBuildRouteFile", "FILE", "routes of builds", ignored="there is one"),
    Option("tuningSearch", "MODE", "routes of builds", ignored="there is one"),
    Option("tuningCacheFile", "FILE", "routes of builds", ignored="there is one"),
    Option("tuningTimeOut", "SECONDS", "routes of builds", ignored="there is one"),
    Option("saveAllEngines", "", "routes of builds", ignored="there is one"),
    Option("dryRun", "", "routes of builds", ignored="there is one"),
    Option("continue", "", "routes of builds", ignored="there is one"),
    Option("helpBuildRoute", "", "routes of builds", ignored="there is one"),
)
INFERENCE: Final = (
    Option("shapes", "SPEC", "shapes of dynamic inputs"),
    Option("loadInputs", "SPEC", "raw contents of inputs: x:x.bin; random without"),
    Option("iterations", "N", "least number of runs", "10"),
    Option("warmUp", "MS", "milliseconds of runs that do not count", "200"),
    Option("duration", "S", "least seconds of measuring; -1 until it is stopped", "3"),
    Option("sleepTime", "MS", "delay before the first run", "0"),
    Option("idleTime", "MS", "pause between runs", "0"),
    Option("infStreams", "N", "contexts that run side by side", "1", aliases=("streams",)),
    Option("exposeDMA", "", "copy and compute one after the other", ignored="always so"),
    Option("noDataTransfers", "", "do not copy inputs and outputs"),
    Option("includeDataTransfers", "", "copy inputs and outputs"),
    Option("useManagedMemory", "", "managed memory", ignored=_MEMORY),
    Option("useSpinWait", "", "wait actively", ignored=_ONE),
    Option("noSpinWait", "", "wait passively", ignored=_ONE),
    Option("threads", "", "a thread for each context", ignored="always so"),
    Option("useCudaGraph", "", "launch as one graph", ignored="Lamina captures where it helps"),
    Option("noCudaGraph", "", "launch kernels one by one", ignored="Lamina decides"),
    Option("timeDeserialize", "", "time deserialization and stop"),
    Option("timeRefit", "", "time the refit"),
    Option("separateProfileRun", "", "profile in runs of their own", ignored="always so"),
    Option("skipInference", "", "build and stop", aliases=("buildOnly",)),
    Option("persistentCacheRatio", "R", "share of the L2 cache", "0", ignored=_MEMORY),
    Option("useProfile", "N", "profile to run with", "0"),
    Option("allocationStrategy", "MODE", "static, profile or runtime", "static"),
    Option("saveDebugTensors", "SPEC", "files for debug tensors: x:x.bin"),
    Option("saveAllDebugTensors", "SPEC", "summary, numpy, string or raw files of all of them"),
    Option("weightStreamingBudget", "N", "weights on the GPU: bytes, 20%, -1 automatic", "-2"),
    Option("loadRefOutputs", "SPEC", "raw contents that outputs are compared with: y:y.bin"),
    Option("accuracyAlgorithm", "NAME", "l0, l1, l2, lInf or cos", "l0"),
    Option("atol", "X", "absolute tolerance of L0", "1e-5"),
    Option("rtol", "X", "relative tolerance of L0", "1e-5"),
    Option("accuracyThreshold", "X", "largest loss that is accepted", "0"),
    Option("refPair", "N", "number of the inputs and outputs that follow"),
)
REPORTING: Final = (
    Option("verbose", "", "print details"),
    Option("avgRuns", "N", "runs that a line of the trace averages", "10"),
    Option("percentile", "P1,P2", "percentiles in the summary", "90,95,99"),
    Option("dumpRefit", "", "print weights that can be replaced"),
    Option("dumpOutput", "", "print the outputs of the last run"),
    Option("dumpRawBindingsToFile", "", "write inputs and outputs of the last run to files"),
    Option("dumpProfile", "", "print the time of each layer"),
    Option("dumpLayerInfo", "", "print the layers"),
    Option("dumpOptimizationProfile", "", "print the profiles"),
    Option("exportTimes", "FILE", "write the time of each run as JSON"),
    Option("exportOutput", "FILE", "write the outputs of the last run as JSON"),
    Option("exportProfile", "FILE", "write the time of each layer as JSON"),
    Option("exportLayerInfo", "FILE", "write the layers as JSON"),
)
SYSTEM: Final = (
    Option("device", "N", "GPU", "0"),
    Option("useDLACore", "N", "DLA core", "-1"),
    Option("staticPlugins", "FILE", "Python file that registers plugins", aliases=("plugins",)),
    Option("dynamicPlugins", "FILE", "Python file that registers plugins"),
    Option("setPluginsToSerialize", "FILE", "plugins to store", ignored="plans name plugins"),
    Option("ignoreParsedPluginLibs", "", "plugin libraries", ignored="plugins are in Python"),
    Option("safetyPlugins", "SPEC", "safety", ignored="there is no safety runtime"),
    Option("help", "", "print this text", aliases=("h",)),
)
GROUPS: Final = {
    "Model": MODEL,
    "Build": BUILD,
    "Inference": INFERENCE,
    "Reporting": REPORTING,
    "System": SYSTEM,
}
_BY_NAME: Final = {
    name: option
    for group in GROUPS.values()
    for option in group
    for name in (option.name, *option.aliases)
}
REPEATED: Final = ("minShapes", "optShapes", "maxShapes", "loadInputs", "loadRefOutputs")
"""Options that may be given once for each ``--profile`` or ``--refPair``."""


@dataclass
class Arguments:
    """What stands on the command line: for each option its values by profile or pair."""

    given: dict[str, dict[int, str]] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether an option is given."""
        return name in self.given

    def text(self, name: str, number: int = 0) -> str:
        """Return the value of an option, its default when it is not given."""
        return self.given.get(name, {}).get(number, _BY_NAME[name].default)

    def integer(self, name: str) -> int:
        """Return a whole number; raises ConfigError for anything else."""
        return int(self.number(name, whole=True))

    def number(self, name: str, *, whole: bool = False) -> float:
        """Return a number; raises ConfigError for anything else."""
        text = self.text(name)
        try:
            return int(text) if whole else float(text)
        except ValueError as e:
            raise ConfigError(f"--{name}={text} is not a number") from e

    def numbers(self, *names: str) -> list[int]:
        """Return the profiles or pairs that any of these options is given for."""
        return sorted({n for name in names for n in self.given.get(name, {})})

    def ignored(self) -> list[str]:
        """Return a line for each given option that changes nothing."""
        found = [_BY_NAME[name] for name in self.given]
        return [f"--{o.name} changes nothing: {o.ignored}" for o in found if o.ignored]


def parse(words: Sequence[str]) -> Arguments:
    """Read a command line; raises ConfigError for an option that does not exist."""
    arguments = Arguments()
    number = 0
    for word in words:
        name, equals, value = word.lstrip("-").partition("=")
        option = _BY_NAME.get(name) if word.startswith("-") else None
        if option is None:
            raise ConfigError(f"Unknown option: {word}", hint="--help lists the options")
        if option.takes and not equals:
            raise ConfigError(f"--{name} needs a value: --{name}={option.takes}")
        if option.name in ("profile", "refPair"):
            number = _number(option.name, value)
        at = number if option.name in REPEATED else 0
        arguments.given.setdefault(option.name, {})[at] = value
    return arguments


def _number(name: str, value: str) -> int:
    if not value.isdigit():
        raise ConfigError(f"--{name}={value} is not a number")
    return int(value)


def help_lines() -> list[str]:
    """Return the text of ``--help``."""
    lines = []
    for title, group in GROUPS.items():
        lines.append(f"=== {title} Options ===")
        for o in group:
            names = ", ".join(
                f"--{n}{'=' + o.takes if o.takes else ''}" for n in (o.name, *o.aliases)
            )
            extra = f" (default = {o.default})" if o.default else ""
            extra += f" (changes nothing here: {o.ignored})" if o.ignored else ""
            lines.append(f"  {names:<36} {o.help}{extra}")
        lines.append("")
    return lines
