"""INT8 with an entropy calibrator that keeps its results in a file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from buffers import Buffers, cuda, has_gpu

import lamina.tensorrt as trt

SHAPE = (4, 8, 16, 16)


class Calibrator(trt.IInt8EntropyCalibrator2):
    """Gives random batches, on the device where there is one."""

    def __init__(self, path: Path, batches: int) -> None:
        trt.IInt8EntropyCalibrator2.__init__(self)
        self.path = path
        self.batches = [
            np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)
            for seed in range(batches)
        ]
        self.asked = 0

    def get_batch_size(self) -> int:
        """Return the first size."""
        return SHAPE[0]

    def get_batch(self, names: list[str]) -> list[int] | None:
        """Return the address of the next batch."""
        if self.asked == len(self.batches):
            return None
        batch = self.batches[self.asked]
        self.asked += 1
        if not has_gpu():
            return [batch.ctypes.data]
        _, address = cuda.cudaMalloc(batch.nbytes)
        kind = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        cuda.cudaMemcpy(address, batch.ctypes.data, batch.nbytes, kind)
        return [address]

    def read_calibration_cache(self) -> bytes | None:
        """Return what an earlier calibration wrote."""
        return self.path.read_bytes() if self.path.exists() else None

    def write_calibration_cache(self, cache: Any) -> None:
        """Keep the results."""
        self.path.write_bytes(cache)


def build(calibrator: Calibrator | None) -> Any:
    """Return an engine of two convolutions, in INT8 with a calibrator."""
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network()
    config = builder.create_builder_config()
    x = network.add_input("x", trt.float32, SHAPE)
    for seed in (1, 2):
        kernel = np.random.default_rng(seed).standard_normal((8, 8, 3, 3)).astype(np.float32) / 8
        layer = network.add_convolution_nd(x, 8, (3, 3), kernel)
        x = network.add_activation(layer.get_output(0), trt.ActivationType.RELU).get_output(0)
    x.name = "y"
    network.mark_output(x)
    if calibrator is not None:
        config.set_flag(trt.BuilderFlag.INT8)
        config.int8_calibrator = calibrator
    return builder.build_engine_with_config(network, config)


def main() -> None:
    """Calibrate, calibrate again from the cache, compare with float."""
    x = np.random.default_rng(99).standard_normal(SHAPE).astype(np.float32)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "calibration.cache"
        for calibrator in (None, Calibrator(path, 4), Calibrator(path, 4)):
            buffers = Buffers(build(calibrator).create_execution_context())
            results.append(buffers.run({"x": x})["y"])
            buffers.free()
            if calibrator is not None:
                print(f"{calibrator.asked} batches were used")
        print(path.read_text().splitlines()[0])
    exact, rounded, again = results
    np.testing.assert_array_equal(rounded, again)
    noise = np.mean((exact - rounded) ** 2) / np.mean(exact**2)
    print(f"signal over quantization noise: {-10 * np.log10(noise):.0f} dB")
    assert 0 < noise < 1e-2


if __name__ == "__main__":
    main()
