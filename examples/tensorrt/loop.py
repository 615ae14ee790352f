"""A loop: Newton's method for square roots, until the error is small enough or ten steps are done.

The trace of all estimates leaves the loop too, padded with zeros to ten rows.
"""

from __future__ import annotations

import numpy as np
from buffers import Buffers

import lamina.tensorrt as trt

E = trt.ElementWiseOperation
STEPS = 10


def main() -> None:
    """Build and run."""
    builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
    network = builder.create_network()
    number = network.add_input("number", trt.float32, (1,))

    def constant(value: float) -> trt.ITensor:
        return network.add_constant((1,), np.array([value], np.float32)).get_output(0)

    def combine(a: trt.ITensor, b: trt.ITensor, op: trt.ElementWiseOperation) -> trt.ITensor:
        return network.add_elementwise(a, b, op).get_output(0)

    loop = network.add_loop()
    count = network.add_constant((), np.array(STEPS, np.int32)).get_output(0)
    loop.add_trip_limit(count, trt.TripLimit.COUNT)
    estimate = loop.add_recurrence(number)
    x = estimate.get_output(0)
    error = network.add_unary(combine(combine(x, x, E.PROD), number, E.SUB), trt.UnaryOperation.ABS)
    wrong = combine(error.get_output(0), constant(1e-4), E.GREATER)
    condition = network.add_shuffle(wrong)
    condition.reshape_dims = ()
    loop.add_trip_limit(condition.get_output(0), trt.TripLimit.WHILE)
    following = combine(combine(x, combine(number, x, E.DIV), E.SUM), constant(0.5), E.PROD)
    estimate.set_input(1, following)
    last = loop.add_loop_output(x, trt.LoopOutput.LAST_VALUE)
    trace = loop.add_loop_output(following, trt.LoopOutput.CONCATENATE)
    trace.set_input(1, count)
    for name, layer in (("root", last), ("trace", trace)):
        layer.get_output(0).name = name
        network.mark_output(layer.get_output(0))
    engine = builder.build_engine_with_config(network, builder.create_builder_config())
    buffers = Buffers(engine.create_execution_context())
    for value in (2.0, 100.0):
        outputs = buffers.run({"number": [value]})
        steps = np.count_nonzero(outputs["trace"])
        print(f"the root of {value} is {outputs['root'][0]:.4f}, found in {steps} steps")
        assert abs(outputs["root"][0] - value**0.5) < 1e-3
    buffers.free()


if __name__ == "__main__":
    main()
