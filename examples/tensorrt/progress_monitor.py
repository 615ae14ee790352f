"""A progress monitor that draws the phases of a build, and one that cancels it."""

from __future__ import annotations

import numpy as np

import lamina.tensorrt as trt


class Bars(trt.IProgressMonitor):
    """Prints phases, indented by their depth."""

    def __init__(self) -> None:
        super().__init__()
        self.depth: dict[str, int] = {}

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """Print the name of the phase."""
        self.depth[phase_name] = self.depth.get(parent_phase or "", -1) + 1
        print(f"{'  ' * self.depth[phase_name]}{phase_name}: {num_steps} steps")

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Go on."""
        return True

    def phase_finish(self, phase_name: str) -> None:
        """Forget the phase."""
        del self.depth[phase_name]


class Impatient(Bars):
    """Cancels at the first step."""

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Stop."""
        return False


def main() -> None:
    """Build twice."""
    builder = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
    network = builder.create_network()
    x = network.add_input("x", trt.float32, (1, 8, 16, 16))
    for _ in range(3):
        kernel = np.random.default_rng(0).standard_normal((8, 8, 3, 3)).astype(np.float32)
        layer = network.add_convolution_nd(x, 8, (3, 3), kernel)
        x = network.add_activation(layer.get_output(0), trt.ActivationType.RELU).get_output(0)
    network.mark_output(x)
    config = builder.create_builder_config()
    config.progress_monitor = Bars()
    assert builder.build_serialized_network(network, config) is not None
    config.progress_monitor = Impatient()
    cancelled = builder.build_serialized_network(network, config)
    print(f"the impatient one got {cancelled}")
    assert cancelled is None


if __name__ == "__main__":
    main()
