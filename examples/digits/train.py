"""Train the digits network of ``lamina demo`` on scikit-learn's 8x8 handwritten digits.

    python examples/digits/train.py [--out FOLDER]

Writes ``digits.onnx`` (convolutions, batch norms, dynamic ``batch``) and ``digits_held_out.npz``
(the 360 images, ``f32[360, 1, 8, 8]`` in 0..1, that training never saw, and their labels). Plain
NumPy, one seed, the last epoch's weights: no choice is made by looking at held-out images.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
from typing import Any

import layers
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper
from sklearn.datasets import load_digits

Array = npt.NDArray[Any]

OUT = pathlib.Path(__file__).parents[2] / "src/lamina/cli/data"
OPSET = 17
IR_VERSION = 8


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that training depends on besides the data.

    The distortions were chosen by five-fold cross-validation within the training images.
    """

    seed: int = 0
    held_out: int = 360
    epochs: int = 60
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    rotate_degrees: float = 12.0
    scale_by: float = 0.1
    shift_pixels: float = 0.7


@dataclasses.dataclass(frozen=True)
class Digits:
    """Images ``f32[n, 1, 8, 8]`` in 0..1 and labels ``i64[n]``."""

    images: Array
    labels: Array


def split(recipe: Recipe) -> tuple[Digits, Digits]:
    """Return the images to train on and those held out, drawn by the recipe's seed."""
    data = load_digits()
    images = (data.images / 16).astype(np.float32)[:, None]
    order = np.random.default_rng(recipe.seed).permutation(len(images))
    held, kept = order[: recipe.held_out], order[recipe.held_out :]
    labels = data.target.astype(np.int64)
    return Digits(images[kept], labels[kept]), Digits(images[held], labels[held])


class Network:
    """Three convolutions with batch norm and ReLU, two poolings, one dense layer."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.layers: list[layers.Layer] = []
        for channels, out, pooled in ((1, 16, False), (16, 32, True), (32, 64, True)):
            self.layers += [layers.Convolution(rng, channels, out), layers.BatchNorm(out)]
            self.layers += [layers.Relu(), *([layers.MaxPool()] if pooled else [])]
        self.layers.append(layers.Dense(rng, (2, 2, 64), 10))

    def parameters(self) -> list[layers.Parameter]:
        """Return what the optimizer changes."""
        return [p for layer in self.layers for p in layer.parameters()]

    def forward(self, images: Array, *, training: bool = False) -> Array:
        """Return logits ``f32[n, 10]`` of images ``f32[n, 1, 8, 8]``."""
        x = images.transpose(0, 2, 3, 1)
        for layer in self.layers:
            x = layer.forward(x, training=training)
        return x

    def backward(self, gradient: Array) -> None:
        """Store every parameter's gradient, given that of the logits."""
        for layer in reversed(self.layers):
            gradient = layer.backward(gradient)

    def to_onnx(self) -> onnx.ModelProto:
        """Return the network in inference mode with a dynamic ``batch``."""
        written = layers.OnnxNodes("image")
        for layer in self.layers:
            layer.write(written)
        written.nodes[-1].output[0] = "logits"
        graph = helper.make_graph(
            written.nodes,
            "digits",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
            written.weights,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019) on matrices."""

    def __init__(self, parameters: list[layers.Parameter], weight_decay: float) -> None:
        self._parameters = parameters
        self._moments = [(np.zeros_like(p.value), np.zeros_like(p.value)) for p in parameters]
        self._decay = weight_decay
        self._steps = 0

    def step(self, learning_rate: float) -> None:
        """Move every parameter against its gradient."""
        self._steps += 1
        for p, (first, second) in zip(self._parameters, self._moments, strict=True):
            first += 0.1 * (p.gradient - first)
            second += 0.001 * (p.gradient**2 - second)
            mean = first / (1 - 0.9**self._steps)
            power = second / (1 - 0.999**self._steps)
            if p.value.ndim > 1:
                p.value *= 1 - learning_rate * self._decay
            p.value -= learning_rate * mean / (np.sqrt(power) + 1e-8)


def train(data: Digits, recipe: Recipe) -> Network:
    """Return a network trained on randomly distorted images, with a cosine learning rate."""
    rng = np.random.default_rng(recipe.seed)
    network = Network(rng)
    optimizer = AdamW(network.parameters(), recipe.weight_decay)
    steps = recipe.epochs * (len(data.images) // recipe.batch)
    step = 0
    for epoch in range(recipe.epochs):
        order = rng.permutation(len(data.images))
        losses = []
        for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
            chosen = order[start : start + recipe.batch]
            images = distort(data.images[chosen], recipe, rng)
            losses.append(_learn(network, images, data.labels[chosen]))
            rate = recipe.learning_rate * (1 + np.cos(np.pi * step / steps)) / 2
            optimizer.step(rate)
            step += 1
        sys.stderr.write(f"\repoch {epoch + 1}/{recipe.epochs}: loss {np.mean(losses):.4f} ")
    sys.stderr.write("\n")
    return network


def distort(images: Array, recipe: Recipe, rng: np.random.Generator) -> Array:
    """Rotate, scale and shift each image at random (bilinear, zeros outside)."""
    count, _, height, width = images.shape
    angle = np.deg2rad(rng.uniform(-recipe.rotate_degrees, recipe.rotate_degrees, count))
    scale = 1 + rng.uniform(-recipe.scale_by, recipe.scale_by, count)
    moved = rng.uniform(-recipe.shift_pixels, recipe.shift_pixels, (2, count))
    rows, columns = np.mgrid[:height, :width] - (np.array([[[height]], [[width]]]) - 1) / 2
    sine, cosine = (scale * f(angle) for f in (np.sin, np.cos))
    source_rows = _outer(cosine, rows) - _outer(sine, columns) + _outer(moved[0], 1)
    source_columns = _outer(sine, rows) + _outer(cosine, columns) + _outer(moved[1], 1)
    return _sample(images, source_rows + (height - 1) / 2, source_columns + (width - 1) / 2)


def _outer(per_image: Array, per_pixel: Array | int) -> Array:
    return per_image[:, None, None] * per_pixel


def _sample(images: Array, rows: Array, columns: Array) -> Array:
    """Read ``images[n, 0]`` at fractional positions ``[n, height, width]``."""
    margin = 4
    padded = np.pad(images[:, 0], ((0, 0), (margin, margin), (margin, margin)))
    limit = padded.shape[1] - 2
    rows, columns = (np.clip(p + margin, 0, limit) for p in (rows, columns))
    top, left = rows.astype(np.int64), columns.astype(np.int64)
    down, right = rows - top, columns - left
    index = np.arange(len(images))[:, None, None]
    above = padded[index, top, left] * (1 - right) + padded[index, top, left + 1] * right
    below = padded[index, top + 1, left] * (1 - right) + padded[index, top + 1, left + 1] * right
    return (above * (1 - down) + below * down).astype(np.float32)[:, None]


def accuracy(network: Network, data: Digits) -> float:
    """Return the share of images whose largest logit is their label."""
    return float((network.forward(data.images).argmax(1) == data.labels).mean())


def _learn(network: Network, images: Array, labels: Array) -> float:
    """Compute every gradient of the mean cross entropy and return it."""
    logits = network.forward(images, training=True)
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = exponents / exponents.sum(1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(probabilities[rows, labels]).mean()
    probabilities[rows, labels] -= 1
    network.backward(probabilities / np.float32(len(labels)))
    return float(loss)


def main() -> None:
    """Train, report the held-out accuracy and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    folder = parser.parse_args().out
    recipe = Recipe()
    seen, held_out = split(recipe)
    network = train(seen, recipe)
    sys.stdout.write(f"held-out accuracy {accuracy(network, held_out):.4f}\n")
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(network.to_onnx(), folder / "digits.onnx")
    images, labels = held_out.images, held_out.labels
    np.savez_compressed(folder / "digits_held_out.npz", images=images, labels=labels)


if __name__ == "__main__":
    main()
