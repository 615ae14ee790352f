"""Make the int8 (QDQ) form of the digits network with onnxruntime's static quantization.

    python examples/digits/quantize.py [--folder FOLDER]

Reads ``digits.onnx`` from the folder and writes ``digits_int8.onnx`` beside it. Ranges come from
200 of the images that the network was trained on; held-out images are not used.
"""

from __future__ import annotations

import argparse
import logging
import pathlib
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt
import train
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

CALIBRATION_IMAGES = 200
CALIBRATION_BATCH = 50


class CalibrationImages(CalibrationDataReader):  # type: ignore[misc]
    """Seeded training images, a batch at a time."""

    def __init__(self, seed: int = 0) -> None:
        images = train.split(train.Recipe())[0].images
        chosen = np.random.default_rng(seed).permutation(len(images))[:CALIBRATION_IMAGES]
        batches = np.split(images[chosen], CALIBRATION_IMAGES // CALIBRATION_BATCH)
        self._batches = iter(batches)

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        """Return the next batch, or None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


def main() -> None:
    """Write the quantized model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, default=train.OUT)
    folder = parser.parse_args().folder
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        prepared = pathlib.Path(scratch) / "prepared.onnx"
        quant_pre_process(folder / "digits.onnx", prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            folder / "digits_int8.onnx",
            CalibrationImages(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


if __name__ == "__main__":
    main()
