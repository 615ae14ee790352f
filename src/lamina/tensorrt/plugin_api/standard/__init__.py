"""The standard plugins, composed of operators; importing this makes them known.

``init_libnvinfer_plugins`` registers them.
"""

from __future__ import annotations

from functools import partial

from lamina.tensorrt.plugin_api.registry import STANDARD
from lamina.tensorrt.plugin_api.standard import (
    boxes,
    mask_rcnn,
    pointwise,
    priors,
    sampling,
    transformer,
)
from lamina.tensorrt.plugin_api.standard.definition import StandardCreator

DEFINITIONS = (
    *pointwise.DEFINITIONS,
    *sampling.DEFINITIONS,
    *boxes.DEFINITIONS,
    *mask_rcnn.DEFINITIONS,
    *priors.DEFINITIONS,
    *transformer.DEFINITIONS,
)

_MASK_RCNN = "fixed to one toolkit's Mask R-CNN; build it of layers, or use ProposalLayer_TRT"
ABSENT = {
    "CoordConvAC": "how it counts the two axes is not documented; concatenate two constants",
    "DecodeBbox3DPlugin": "its order of boxes depends on the run; decode with layers",
    "EfficientNMS_Explicit_TF_TRT": "for one framework's converter; use EfficientNMS_TRT",
    "EfficientNMS_Implicit_TF_TRT": "for one framework's converter; use EfficientNMS_TRT",
    "EfficientNMS_ONNX_TRT": "what it pads with is not documented; use INMSLayer",
    "GenerateDetection_TRT": _MASK_RCNN,
    "MultilevelProposeROI_TRT": _MASK_RCNN,
    "RPROI_TRT": "there is no operator for pooling by maximum in regions; use ROIAlign_TRT",
    "SingleStepLSTMPlugin": "use ILoop or the recurrent layers",
    "VoxelGeneratorPlugin": "no composition of operators counts points by voxel in their order",
}
"""Standard plugins of TensorRT that are not registered, with the reason and what to do."""

STANDARD.extend(partial(StandardCreator, d, v) for d in DEFINITIONS for v in d.versions)

__all__: list[str] = []
