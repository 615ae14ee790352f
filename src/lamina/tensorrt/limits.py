"""Where this API does less than TensorRT's, and why; ``docs/tensorrt.md`` is made of it."""

from __future__ import annotations

LIMITS: dict[str, str] = {
    "BuilderFlag.INT4": "4-bit weights run through Q/DQ layers; the flag by itself changes nothing",
    "BuilderFlag.SPARSE_WEIGHTS": "accepted; kernels for 2:4 sparse weights do not exist",
    "BuilderFlag.WEIGHT_STREAMING": "accepted; weights stay where the plan is mapped",
    "CaffeParser": "reports an error: there is no Caffe importer yet",
    "IAlgorithmSelector": "kept by the configuration and never called: tactics are chosen by time",
    "IAssertionLayer": (
        "checked when the network is built; a condition that data decides is not looked at"
    ),
    "IAttention.query_form": "packed sequences are refused; use PADDED_BHND",
    "IBuilderConfig.avg_timing_iterations": "kept; Lamina decides how often it measures",
    "IBuilderConfig.build_route": "kept; there is one route",
    "IBuilderConfig.set_device_type": "kept: every layer runs on the device of the engine",
    "IBuilderConfig.set_memory_pool_limit": "kept; kernels take their memory from the arena",
    "IBuilderConfig.set_preview_feature": "kept; no feature changes how Lamina builds",
    "IBuilderConfig.set_tactic_sources": "kept, and told by the engine; tactics are Lamina's own",
    "ICudaEngine.device_memory_size": (
        "bytes of the arena for the largest shapes; workspaces come on top"
    ),
    "ICudaEngine.serialize_with_config": "EXCLUDE_WEIGHTS keeps the weights, with a warning",
    "ICudaEngine.weight_streaming_budget_v2": "kept; all weights stay where the engine runs",
    "IDistCollectiveLayer": "one device only; more than one rank is refused",
    "IExecutionContext.debug_sync": (
        "kept; the environment variable LAMINA_CUDA_CHECK waits after each step"
    ),
    "IExecutionContext.device_memory": (
        "kept; contexts own their memory, which an IGpuAllocator may give"
    ),
    "IExecutionContext.report_to_profiler": "measures another run on the same inputs",
    "IExecutionContext.set_aux_streams": (
        "accepted; CUDA graphs run independent steps at the same time"
    ),
    "IExecutionContext.set_communicator": "refused: an engine runs on one device",
    "IExecutionContext.set_input_consumed_event": (
        "recorded after the whole run on a GPU; on a CPU inputs are consumed when a call returns"
    ),
    "IExecutionContext.temporary_allocator": "kept; memory comes from the runtime's allocator",
    "IFillLayer": "random numbers differ in each run, and from TensorRT's",
    "ILayer": "settings of layers that a parser made can be read; setting them has no effect",
    "ILayer.precision": (
        "kept; FLOAT keeps a layer out of INT8, others compute as the flags say (contractions of "
        "16-bit operands always add in f32)"
    ),
    "IMoELayer.set_quantization_dynamic_dbl_q": "refused; static scales are rounded to",
    "INetworkDefinition.mark_unfused_tensors_as_debug_tensors": (
        "kept; mark tensors one by one to see them"
    ),
    "INetworkDefinition.serialize": "refused: a network has no form of its own",
    "IOptimizationProfile": (
        "one program serves all profiles: tuned for the first, allowed for what any of them allows"
    ),
    "IPluginV2DynamicExt.configure_plugin": (
        "at build time sizes that are not known are told as 1, whatever the profiles say"
    ),
    "IPluginV3OneBuild.format_combination_limit": "kept; plugins get linear tensors",
    "IPluginV3OneBuild.get_valid_tactics": "the first tactic is taken, without timing",
    "IPluginV3OneBuild.timing_cache_id": "kept; plugins are not timed",
    "IRuntimeConfig": "kept; contexts allocate when they first run with new shapes",
    "ITensor.allowed_formats": "kept; inputs and outputs are linear",
    "OnnxParser.set_builder_config": (
        "kept; the configuration does not change how a model is parsed"
    ),
    "Refitter": (
        "folds and packs again through the passes of the build, about as long as a cached build"
    ),
    "Refitter.set_dynamic_range": (
        "refused: ranges became scales of Q/DQ, which have names of their own"
    ),
    "Runtime.load_runtime": "reports an error: engines need no runtime of their version",
    "UffParser": "reports an error: there is no UFF importer yet",
}
"""Classes and members (``Class`` or ``Class.member``) with what they do not do."""
