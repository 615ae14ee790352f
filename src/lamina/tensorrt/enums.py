"""The enumerations of TensorRT's API; members and numbers come from the table of versions."""

from __future__ import annotations

from lamina.tensorrt.enum_type import TrtEnum, fill


class Severity(TrtEnum):
    """Importance of a log message."""

    _listed_as = "ILogger.Severity"


class ActivationType(TrtEnum):
    """Activation functions."""


class AllocatorFlag(TrtEnum):
    """Properties of an allocation."""


class APILanguage(TrtEnum):
    """Language in which an interface is implemented."""


class AttentionIOForm(TrtEnum):
    """Layout of attention's operands."""


class AttentionNormalizationOp(TrtEnum):
    """Normalization of attention scores."""


class BoundingBoxFormat(TrtEnum):
    """How boxes are given to NMS."""


class BuilderFlag(TrtEnum):
    """Options of a build."""


class CalibrationAlgoType(TrtEnum):
    """How a calibrator turns histograms into ranges."""


class CausalMaskKind(TrtEnum):
    """Which corner a causal mask is aligned to."""


class CollectiveOperation(TrtEnum):
    """Collective communication."""


class CumulativeOperation(TrtEnum):
    """Running reductions."""


class DataType(TrtEnum):
    """Element types."""

    @property
    def itemsize(self) -> float | None:
        """Bytes of one element, 0.5 for 4-bit types; None for scale factors."""
        return _ITEM_BYTES[self.name]


class DeviceType(TrtEnum):
    """Where a layer runs."""


class DimensionOperation(TrtEnum):
    """Arithmetic on dimension expressions."""


class ElementWiseOperation(TrtEnum):
    """Functions of two elements."""


class EngineCapability(TrtEnum):
    """Restrictions on an engine."""


class EngineStat(TrtEnum):
    """Statistics of an engine."""


class ErrorCode(TrtEnum):
    """Errors of the ONNX parser."""


class ErrorCodeTRT(TrtEnum):
    """Errors given to an error recorder."""


class ExecutionContextAllocationStrategy(TrtEnum):
    """Who allocates a context's memory, and when."""


class FieldType(TrtEnum):
    """Types of UFF fields."""


class FillOperation(TrtEnum):
    """How a tensor is filled."""


class GatherMode(TrtEnum):
    """Which gather."""


class HardwareCompatibilityLevel(TrtEnum):
    """On which other devices an engine must run."""


class InterpolationMode(TrtEnum):
    """How resampling interpolates."""


class KVCacheMode(TrtEnum):
    """How a key-value cache is written."""


class LayerInformationFormat(TrtEnum):
    """Formats of the engine inspector."""


class LayerType(TrtEnum):
    """Kinds of layers."""


class LoopOutput(TrtEnum):
    """What a loop gives to the outside."""


class MatrixOperation(TrtEnum):
    """How an operand of a matrix product is read."""


class MemoryPoolType(TrtEnum):
    """Pools of memory that the builder may limit."""


class MoEActType(TrtEnum):
    """Activation of an expert network."""


class NetworkDefinitionCreationFlag(TrtEnum):
    """Options of a network."""


class OnnxParserFlag(TrtEnum):
    """Options of the ONNX parser."""


class PaddingMode(TrtEnum):
    """How padding and rounding of windows are decided."""


class PluginArgDataType(TrtEnum):
    """Types of symbolic plugin arguments."""


class PluginArgType(TrtEnum):
    """Kinds of symbolic plugin arguments."""


class PluginCapabilityType(TrtEnum):
    """Capabilities of a plugin."""


class PluginCreatorVersion(TrtEnum):
    """Versions of plugin creators."""


class PluginFieldType(TrtEnum):
    """Types of plugin fields."""


class PoolingType(TrtEnum):
    """What a pooling window computes."""


class PreviewFeature(TrtEnum):
    """Features that are being introduced."""


class ProfilingVerbosity(TrtEnum):
    """How much an engine tells about its layers."""


class QuantizationFlag(TrtEnum):
    """Options of calibration."""


class QuickPluginCreationRequest(TrtEnum):
    """Which implementation of a decorated plugin to take."""


class ReduceOperation(TrtEnum):
    """What a reduction computes."""


class ResizeCoordinateTransformation(TrtEnum):
    """How resize maps coordinates."""


class ResizeRoundMode(TrtEnum):
    """How resize rounds coordinates."""


class ResizeSelector(TrtEnum):
    """Which element a resize to one pixel takes."""


class RNNDirection(TrtEnum):
    """Order in which a recurrent layer reads time."""


class RNNGateType(TrtEnum):
    """Gates of recurrent cells."""


class RNNInputMode(TrtEnum):
    """What a recurrent layer does with its input."""


class RNNOperation(TrtEnum):
    """Cells of recurrent layers."""


class RuntimePlatform(TrtEnum):
    """Where an engine will run."""


class SampleMode(TrtEnum):
    """What lies outside of a tensor."""


class ScaleMode(TrtEnum):
    """Which elements share a scale."""


class ScatterMode(TrtEnum):
    """Which scatter."""


class SeekPosition(TrtEnum):
    """Where a seek counts from."""


class SerializationFlag(TrtEnum):
    """Options of serialization."""


class TacticSource(TrtEnum):
    """Libraries that tactics come from."""


class TempfileControlFlag(TrtEnum):
    """Where temporary files may lie."""


class TensorFormat(TrtEnum):
    """Memory layouts of inputs and outputs."""


class TensorIOMode(TrtEnum):
    """Whether a tensor is an input or an output."""


class TensorLocation(TrtEnum):
    """Where the bytes of a tensor are."""


class TensorRTPhase(TrtEnum):
    """When a plugin is created."""


class TilingOptimizationLevel(TrtEnum):
    """How hard tiling is searched."""


class TopKOperation(TrtEnum):
    """Largest or smallest."""


class TripLimit(TrtEnum):
    """What ends a loop."""


class UffInputOrder(TrtEnum):
    """Order of the axes of a UFF input."""


class UnaryOperation(TrtEnum):
    """Functions of one element."""


class WeightsRole(TrtEnum):
    """What weights are to their layer."""


_ITEM_BYTES: dict[str, float | None] = {
    "FLOAT": 4, "HALF": 2, "BF16": 2, "INT8": 1, "INT32": 4, "INT64": 8, "BOOL": 1,
    "UINT8": 1, "FP8": 1, "INT4": 0.5, "FP4": 0.5, "E8M0": None,
}  # fmt: skip

__all__ = [
    "APILanguage",
    "ActivationType",
    "AllocatorFlag",
    "AttentionIOForm",
    "AttentionNormalizationOp",
    "BoundingBoxFormat",
    "BuilderFlag",
    "CalibrationAlgoType",
    "CausalMaskKind",
    "CollectiveOperation",
    "CumulativeOperation",
    "DataType",
    "DeviceType",
    "DimensionOperation",
    "ElementWiseOperation",
    "EngineCapability",
    "EngineStat",
    "ErrorCode",
    "ErrorCodeTRT",
    "ExecutionContextAllocationStrategy",
    "FieldType",
    "FillOperation",
    "GatherMode",
    "HardwareCompatibilityLevel",
    "InterpolationMode",
    "KVCacheMode",
    "LayerInformationFormat",
    "LayerType",
    "LoopOutput",
    "MatrixOperation",
    "MemoryPoolType",
    "MoEActType",
    "NetworkDefinitionCreationFlag",
    "OnnxParserFlag",
    "PaddingMode",
    "PluginArgDataType",
    "PluginArgType",
    "PluginCapabilityType",
    "PluginCreatorVersion",
    "PluginFieldType",
    "PoolingType",
    "PreviewFeature",
    "ProfilingVerbosity",
    "QuantizationFlag",
    "QuickPluginCreationRequest",
    "RNNDirection",
    "RNNGateType",
    "RNNInputMode",
    "RNNOperation",
    "ReduceOperation",
    "ResizeCoordinateTransformation",
    "ResizeRoundMode",
    "ResizeSelector",
    "RuntimePlatform",
    "SampleMode",
    "ScaleMode",
    "ScatterMode",
    "SeekPosition",
    "SerializationFlag",
    "TacticSource",
    "TempfileControlFlag",
    "TensorFormat",
    "TensorIOMode",
    "TensorLocation",
    "TensorRTPhase",
    "TilingOptimizationLevel",
    "TopKOperation",
    "TripLimit",
    "UffInputOrder",
    "UnaryOperation",
    "WeightsRole",
]

ALL: tuple[type[TrtEnum], ...] = (Severity, *(globals()[name] for name in __all__))
"""Every enumeration, for filling."""

for _enum in ALL:  # so that modules may name members while they are imported
    fill(_enum, "10")
