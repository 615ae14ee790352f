"""Recurrent layers: vanilla RNN, LSTM, GRU and the linear-before-reset GRU.

Operands: ``src`` [T, N, C], ``weights`` [1, D, C, gates, H], ``weights_iter`` [1, D, H, gates, H],
``bias`` [1, D, gates, H], states [1, D, N, H], ``dst`` [T, N, D·H], where D is 2 for both
directions.  Gates in order: LSTM input, forget, cell, output; GRU update, reset, new; the
linear-before-reset GRU has a fourth bias, inside the reset product.  Weights are best left to the
library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from lamina.backends.cpu.onednn.attributes import NO_ATTRIBUTES, Attributes
from lamina.backends.cpu.onednn.construction import Construction
from lamina.backends.cpu.onednn.enums import ELTWISE, FORWARD_INFERENCE, RNN_DIRECTION
from lamina.backends.cpu.onednn.memory import Layout

GATES: Final = {"vanilla": 1, "lstm": 4, "gru": 3, "lbr_gru": 3}
BIASES: Final = {"vanilla": 1, "lstm": 4, "gru": 3, "lbr_gru": 4}


@dataclass(frozen=True)
class Recurrent:
    """One recurrent layer over a whole sequence.

    ``cell``: ``vanilla`` (with ``activation`` ``tanh``, ``relu`` or ``logistic``), ``lstm``,
    ``gru``, ``lbr_gru``.  ``direction``: ``forward``, ``reverse``, ``bidirectional_concat``.
    Absent initial states are zero.  Only the LSTM has cell states and peepholes, the latter
    [1, D, 3, H] for input, forget, output.
    """

    cell: str
    src: Layout
    weights: Layout
    weights_iter: Layout
    dst: Layout
    bias: Layout | None = None
    src_iter: Layout | None = None
    src_iter_c: Layout | None = None
    dst_iter: Layout | None = None
    dst_iter_c: Layout | None = None
    weights_peephole: Layout | None = None
    direction: str = "forward"
    activation: str = "tanh"
    alpha: float = 0.0
    attributes: Attributes = NO_ATTRIBUTES

    def operands(self) -> list[str]:
        """Return the names of the execution arguments."""
        names = (
            "src",
            "src_iter",
            "src_iter_c",
            "weights",
            "weights_iter",
            "weights_peephole",
            "bias",
            "dst",
            "dst_iter",
            "dst_iter_c",
        )
        return [name for name in names if getattr(self, name) is not None]

    def describe(self, c: Construction) -> int:
        """Return oneDNN's description of this primitive."""
        if self.cell == "lstm":
            return self._describe_lstm(c)
        head: tuple[Any, ...] = (c.library.engine, FORWARD_INFERENCE)
        tail: tuple[Any, ...] = (0,)
        if self.cell == "vanilla":
            head = (*head, ELTWISE[self.activation])
            tail = (0, self.alpha, 0.0)
        return c.describe(
            f"{'vanilla_rnn' if self.cell == 'vanilla' else self.cell}"
            "_forward_primitive_desc_create",
            *head,
            RNN_DIRECTION[self.direction],
            c.descriptor(self.src),
            c.descriptor(self.src_iter),
            c.descriptor(self.weights),
            c.descriptor(self.weights_iter),
            c.descriptor(self.bias),
            c.descriptor(self.dst),
            c.descriptor(self.dst_iter),
            *tail,
            c.attributes(self.attributes),
        )

    def _describe_lstm(self, c: Construction) -> int:
        return c.describe(
            "lstm_forward_primitive_desc_create",
            c.library.engine,
            FORWARD_INFERENCE,
            RNN_DIRECTION[self.direction],
            c.descriptor(self.src),
            c.descriptor(self.src_iter),
            c.descriptor(self.src_iter_c),
            c.descriptor(self.weights),
            c.descriptor(self.weights_iter),
            c.descriptor(self.weights_peephole),
            None,
            c.descriptor(self.bias),
            c.descriptor(self.dst),
            c.descriptor(self.dst_iter),
            c.descriptor(self.dst_iter_c),
            0,
            c.attributes(self.attributes),
        )

    @property
    def multiply_adds(self) -> int:
        """Number of multiply-adds of the gates' matrix products."""
        steps, batch, _ = self.src.dims
        _, directions, inputs, gates, hidden = self.weights.dims
        return steps * batch * directions * gates * hidden * (inputs + hidden)
