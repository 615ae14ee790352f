"""A plugin of the third generation: a circular shift whose distance is an attribute.

Where engines run on the CPU it computes with NumPy.  On a GPU the addresses are the device's, and
the work goes to the stream: here two copies, in general whatever CuPy, torch or Triton can do.
"""

from __future__ import annotations

import ctypes

import numpy as np
from buffers import Buffers, cuda, has_gpu

import lamina.tensorrt as trt

Shapes = list[trt.DimsExprs]


def array(address: int, description: trt.PluginTensorDesc) -> np.ndarray:
    """Return the f32 array at an address of host memory."""
    shape = tuple(description.dims)
    memory = (ctypes.c_float * int(np.prod(shape))).from_address(address)
    return np.ctypeslib.as_array(memory).reshape(shape)


class Roll(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
    """Shifts the first axis in a circle."""

    def __init__(self, distance: int) -> None:
        trt.IPluginV3.__init__(self)
        trt.IPluginV3OneCore.__init__(self)
        trt.IPluginV3OneBuild.__init__(self)
        trt.IPluginV3OneRuntime.__init__(self)
        self.distance = distance
        self.num_outputs = 1
        self.plugin_name, self.plugin_version, self.plugin_namespace = "Roll", "1", ""

    def get_capability_interface(self, type: trt.PluginCapabilityType) -> Roll:
        return self

    def get_output_data_types(self, input_types: list[trt.DataType]) -> list[trt.DataType]:
        return [input_types[0]]

    def get_output_shapes(
        self, inputs: Shapes, shape_inputs: Shapes, expr_builder: trt.IExprBuilder
    ) -> Shapes:
        return [trt.DimsExprs(inputs[0])]

    def supports_format_combination(
        self, pos: int, in_out: list[trt.DynamicPluginTensorDesc], num_inputs: int
    ) -> bool:
        return in_out[pos].desc.type == trt.float32

    def get_fields_to_serialize(self) -> trt.PluginFieldCollection:
        field = trt.PluginField("distance", np.array([self.distance], np.int32))
        return trt.PluginFieldCollection([field])

    def enqueue(
        self,
        input_desc: list[trt.PluginTensorDesc],
        output_desc: list[trt.PluginTensorDesc],
        inputs: list[int],
        outputs: list[int],
        workspace: int,
        stream: int,
    ) -> None:
        shape = tuple(input_desc[0].dims)
        if has_gpu():
            self._copy_on_device(shape, inputs[0], outputs[0], stream)
            return
        x = array(inputs[0], input_desc[0])
        array(outputs[0], output_desc[0])[...] = np.roll(x, self.distance, axis=0)

    def _copy_on_device(self, shape: tuple[int, ...], x: int, y: int, stream: int) -> None:
        whole = 4 * int(np.prod(shape))  # bytes
        moved = whole // shape[0] * (self.distance % shape[0])
        kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        for target, source, size in ((y + moved, x, whole - moved), (y, x + whole - moved, moved)):
            (error,) = cuda.cudaMemcpyAsync(target, source, size, kind, stream)
            assert int(error) == 0, error

    def clone(self) -> Roll:
        return Roll(self.distance)


class RollCreator(trt.IPluginCreatorV3One):
    """Makes the plugin from its attributes."""

    def __init__(self) -> None:
        trt.IPluginCreatorV3One.__init__(self)
        self.name, self.plugin_version, self.plugin_namespace = "Roll", "1", ""
        self.field_names = trt.PluginFieldCollection([trt.PluginField("distance")])

    def create_plugin(
        self, name: str, field_collection: trt.PluginFieldCollection, phase: trt.TensorRTPhase
    ) -> Roll:
        fields = {field.name: field.data for field in field_collection}
        return Roll(int(fields["distance"][0]))


def main() -> None:
    """Build and run."""
    trt.get_plugin_registry().register_creator(RollCreator(), "")
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network()
    x = network.add_input("x", trt.float32, (4, 2))
    layer = network.add_plugin_v3([x], [], Roll(1))
    layer.get_output(0).name = "y"
    network.mark_output(layer.get_output(0))
    data = builder.build_serialized_network(network, builder.create_builder_config())
    engine = trt.Runtime(logger).deserialize_cuda_engine(data)
    buffers = Buffers(engine.create_execution_context())
    given = np.arange(8, dtype=np.float32).reshape(4, 2)
    result = buffers.run({"x": given})["y"]
    print(result)
    assert (result == np.roll(given, 1, axis=0)).all()
    buffers.free()


if __name__ == "__main__":
    main()
