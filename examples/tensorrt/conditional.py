"""A conditional: only the branch that is chosen runs."""

from __future__ import annotations

import numpy as np
from buffers import Buffers

import lamina.tensorrt as trt


def main() -> None:
    """Build a network that sorts or sums, and run both branches."""
    builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
    network = builder.create_network()
    x = network.add_input("x", trt.float32, (1, 6))
    choice = network.add_input("sort", trt.bool, ())
    conditional = network.add_if_conditional()
    conditional.set_condition(choice)
    inside = conditional.add_input(x).get_output(0)
    sorted_x = network.add_topk(inside, trt.TopKOperation.MAX, 6, 1 << 1).get_output(0)
    axis = network.add_constant((), np.array(1, np.int32)).get_output(0)
    running = network.add_cumulative(inside, axis, trt.CumulativeOperation.SUM, False, False)
    result = conditional.add_output(sorted_x, running.get_output(0)).get_output(0)
    result.name = "y"
    network.mark_output(result)
    engine = builder.build_engine_with_config(network, builder.create_builder_config())
    buffers = Buffers(engine.create_execution_context())
    values = np.array([[3, 1, 4, 1, 5, 9]], np.float32)
    for sort in (True, False):
        y = buffers.run({"x": values, "sort": sort})["y"]
        print(f"sort={sort}: {y[0].tolist()}")
        wanted = -np.sort(-values) if sort else np.cumsum(values, axis=1)
        np.testing.assert_array_equal(y, wanted)
    buffers.free()


if __name__ == "__main__":
    main()
