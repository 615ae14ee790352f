"""What a convolution kernel has to compute, and where its operands lie."""

from __future__ import annotations

from dataclasses import dataclass

CHANNEL_BLOCK = 16


ITEM_BYTES = {"f32": 4, "bf16": 2, "bf16x2": 4}
"""Bytes of one activation of each type that kernels read and write."""


@dataclass(frozen=True)
class ActivationLayout:
    """Where an activation's element (n, c, y, x) lies, in bytes, and its type (f32 or bf16).

    Channels come in blocks of 16; a block starts ``block`` bytes after the one before (16 items in
    channels-last order), and a channel ``channel`` bytes after its neighbour (one item except in
    planar order). ``padded`` tells whether a last, partial block has its missing channels in
    memory, as zeros (true for nChw16c, false for NHWC and NCHW).
    """

    batch: int
    block: int
    row: int
    pixel: int
    padded: bool
    channel: int = 4
    dtype: str = "f32"

    @classmethod
    def channels_last(
        cls, channels: int, height: int, width: int, dtype: str = "f32"
    ) -> ActivationLayout:
        """Return the layout of a dense NHWC activation."""
        item = ITEM_BYTES[dtype]
        pixel = channels * item
        image = height * width * pixel
        return cls(image, CHANNEL_BLOCK * item, width * pixel, pixel, False, item, dtype)

    @classmethod
    def blocked(
        cls, channels: int, height: int, width: int, dtype: str = "f32"
    ) -> ActivationLayout:
        """Return the layout of a dense nChw16c activation."""
        item = ITEM_BYTES[dtype]
        pixel = CHANNEL_BLOCK * item
        plane = height * width * pixel
        blocks = -(-channels // CHANNEL_BLOCK)
        return cls(blocks * plane, plane, width * pixel, pixel, True, item, dtype)

    @classmethod
    def planar(cls, channels: int, height: int, width: int) -> ActivationLayout:
        """Return the layout of a dense f32 NCHW activation."""
        plane = height * width * 4
        return cls(channels * plane, CHANNEL_BLOCK * plane, width * 4, 4, False, plane)

    @property
    def item_bytes(self) -> int:
        """Return the bytes of one element."""
        return ITEM_BYTES[self.dtype]

    @property
    def is_planar(self) -> bool:
        """Tell whether each channel is an image of its own."""
        return self.channel != self.item_bytes

    @property
    def is_blocked(self) -> bool:
        """Tell whether blocks of 16 channels lie apart from each other."""
        return not self.is_planar and self.block != CHANNEL_BLOCK * self.item_bytes

    def channel_offset(self, channel: int) -> int:
        """Return the bytes from channel 0 to the given one."""
        block, within = divmod(channel, CHANNEL_BLOCK)
        return block * self.block + within * self.channel


@dataclass(frozen=True)
class Epilogue:
    """The function applied to each output: its name among the IR's activations, and parameters."""

    kind: str
    alpha: float = 0.0
    beta: float = 0.0


@dataclass(frozen=True)
class ConvolutionProblem:
    """A 2-D convolution: y = activation(conv(x, w) + bias + residual), computed in f32.

    Pairs are (vertical, horizontal); ``pads`` is (top, left, bottom, right). The residual has
    the layout ``residual``, or is absent when that is None.
    """

    batch: int
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: tuple[int, int]
    src: ActivationLayout
    dst: ActivationLayout
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    bias: bool = True
    residual: ActivationLayout | None = None
    activation: Epilogue | None = None

    @property
    def out_height(self) -> int:
        """Return the rows of the output."""
        reach = (self.kernel[0] - 1) * self.dilations[0] + 1
        return (self.height + self.pads[0] + self.pads[2] - reach) // self.strides[0] + 1

    @property
    def out_width(self) -> int:
        """Return the columns of the output."""
        reach = (self.kernel[1] - 1) * self.dilations[1] + 1
        return (self.width + self.pads[1] + self.pads[3] - reach) // self.strides[1] + 1

    @property
    def stored_channels(self) -> int:
        """Return how many output channels are written: a padded layout's missing ones as zeros."""
        whole = -(-self.out_channels // CHANNEL_BLOCK) * CHANNEL_BLOCK
        return whole if self.dst.padded else self.out_channels

    @property
    def multiply_adds(self) -> int:
        """Return how many multiplications the plain definition needs (padding included)."""
        outputs = self.batch * self.out_channels * self.out_height * self.out_width
        return outputs * self.in_channels // self.groups * self.kernel[0] * self.kernel[1]

    @property
    def operands(self) -> tuple[str, ...]:
        """Return the names of a kernel's operands, in the order of its ``args``."""
        optional = (("bias", self.bias), ("residual", self.residual is not None))
        chosen = tuple(name for name, present in optional if present)
        return ("src", "weights", *chosen, "dst", "workspace")
