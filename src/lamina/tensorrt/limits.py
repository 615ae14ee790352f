"""Where this API does less than TensorRT's, and why; ``docs/tensorrt.md`` is made of it."""

from __future__ import annotations

LIMITS: dict[str, str] = {
    "BuilderFlag.SPARSE_WEIGHTS": (
        "accepted; Triton has no instructions for 2:4 sparse products, so no tactic uses them"
    ),
    "CaffeParser": "reports an error: there is no Caffe importer yet",
    "IAssertionLayer": "those inside conditionals are not looked at",
    "IBuilderConfig.build_route": "kept; there is one route",
    "IBuilderConfig.hardware_compatibility_level": (
        "told by the engine; one that fits no device compiles its graph again there"
    ),
    "IBuilderConfig.max_aux_streams": "kept; a GPU's graph runs independent steps at the same time",
    "IBuilderConfig.remote_auto_tuning_config": (
        "kept; times come from this machine and the timing cache"
    ),
    "IBuilderConfig.set_device_type": (
        "there is no DLA: refused, or with GPU_FALLBACK run like the rest"
    ),
    "IBuilderConfig.tiling_optimization_level": "kept; no kernel works on tiles of several layers",
    "ICudaEngine.device_memory_size": (
        "bytes for the largest shapes; loops, branches, sizes that data decides and scratch memory "
        "of kernels come on top"
    ),
    "ICudaEngine.weight_streaming_budget_v2": (
        "weights beyond it stay in page-locked host memory, where kernels read them in every run; "
        "on a CPU all weights are in host memory anyway"
    ),
    "IDistCollectiveLayer": "one device only; more than one rank is refused",
    "IExecutionContext.device_memory": (
        "takes activations; loops, branches and sizes that data decides have memory of their own"
    ),
    "IExecutionContext.report_to_profiler": "measures another run on the same inputs",
    "IExecutionContext.set_aux_streams": (
        "accepted; CUDA graphs run independent steps at the same time"
    ),
    "IExecutionContext.set_communicator": "refused: an engine runs on one device",
    "IExecutionContext.set_input_consumed_event": (
        "recorded after the whole run on a GPU; on a CPU inputs are consumed when a call returns"
    ),
    "IFillLayer": "random numbers are new in each run, and others than TensorRT's",
    "ILayer": (
        "settings of one kind alone (strides, axes) of layers that a parser made can be read; "
        "setting them has no effect"
    ),
    "ILayer.precision": (
        "FLOAT is obeyed; HALF, BF16 and INT8 are what the flags allow, one 16-bit type in a build "
        "(contractions always add in f32)"
    ),
    "INetworkDefinition.serialize": "refused: a network has no form of its own",
    "IOptimizationProfile": (
        "profiles whose likeliest inputs have less than 4 times each other's elements share one "
        "program: tuned for the first of them"
    ),
    "IPluginResourceContext": "has no allocator and no error recorder of its own",
    "IPluginV3OneBuild.format_combination_limit": (
        "kept; plugins are asked about linear tensors of the network's types, and get those"
    ),
    "IRuntimeConfig": (
        "USER_MANAGED is honoured; with STATIC and ON_PROFILE_CHANGE a context allocates what its "
        "shapes need when it first runs with them"
    ),
    "OnnxParser.set_builder_config": "kept; parsing depends on no option of a build",
    "Refitter": (
        "single numbers that decided how the engine was built (a clip's bound, the scale of a "
        "quantized tensor) need a build again, which takes as long as one with known times"
    ),
    "Refitter.set_dynamic_range": (
        "refused: ranges became scales of Q/DQ, which have names of their own"
    ),
    "Refitter.set_weights": (
        "a parsed BatchNormalization has no SCALE and SHIFT of its own: its four weights are "
        "constants, found by their names"
    ),
    "Runtime.load_runtime": "reports an error: engines need no runtime of their version",
    "UffParser": "reports an error: there is no UFF importer yet",
}
"""Classes and members (``Class`` or ``Class.member``) with what they do not do."""
