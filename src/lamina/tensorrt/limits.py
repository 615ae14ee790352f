"""Where this API does less than TensorRT's, and why; ``docs/tensorrt.md`` is made of it."""

from __future__ import annotations

LIMITS: dict[str, str] = {
    "BuilderFlag.INT4": "4-bit weights run through Q/DQ layers; the flag by itself changes nothing",
    "BuilderFlag.SPARSE_WEIGHTS": "accepted; kernels for 2:4 sparse weights do not exist",
    "BuilderFlag.WEIGHT_STREAMING": "accepted; weights stay where the plan is mapped",
    "CaffeParser": "reports an error: there is no Caffe importer yet",
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
    "IDistCollectiveLayer": "one device only; more than one rank is refused",
    "IFillLayer": "random numbers differ in each run, and from TensorRT's",
    "ILayer.precision": (
        "kept; FLOAT keeps a layer out of INT8, others compute as the flags say (contractions of "
        "16-bit operands always add in f32)"
    ),
    "ILayer": "settings of layers that a parser made can be read; setting them has no effect",
    "IMoELayer.set_quantization_dynamic_dbl_q": "refused; static scales are rounded to",
    "INetworkDefinition.mark_unfused_tensors_as_debug_tensors": (
        "kept; mark tensors one by one to see them"
    ),
    "INetworkDefinition.serialize": "refused: a network has no form of its own",
    "IOptimizationProfile": (
        "one program serves all profiles: tuned for the first, allowed for what any of them allows"
    ),
    "ITensor.allowed_formats": "kept; inputs and outputs are linear",
    "UffParser": "reports an error: there is no UFF importer yet",
}
"""Classes and members (``Class`` or ``Class.member``) with what they do not do."""
