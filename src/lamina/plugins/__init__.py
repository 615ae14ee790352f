"""Operators of your own: one decorated function, optionally with Triton kernels for GPUs.

::

    @lamina.plugin("acme::scaled_add", types=lambda a, b, factor: a)
    def scaled_add(a, b, *, factor: float = 1.0):
        return a + factor * b

Parameters before the ``*`` are operands, which arrive as NumPy arrays; those after it are
attributes.  ``types`` gets the :class:`~lamina.ir.types.TensorType` of each operand and the
attributes, and returns the type of the result, or a tuple of types; sizes in it are numbers or
integer expressions (``2 * x.shape[0]``).  An ONNX node ``scaled_add`` of the domain ``acme`` is
then this function.  Plans name the plugin and do not hold it: import the module that registers it
before a plan that uses it runs.

On a GPU the function runs on the host, unless ``triton`` says which kernels to launch::

    @triton.jit
    def add_kernel(a, b, y, n, FACTOR: tl.constexpr, BLOCK: tl.constexpr):
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = i < n
        sum = tl.load(a + i, mask=inside) + FACTOR * tl.load(b + i, mask=inside)
        tl.store(y + i, sum, mask=inside)

    def launches(a, b, y, *, factor):
        for block in (512, 1024):
            yield Launch(add_kernel, (cdiv(y.size, block),), a, b, y, y.size,
                         FACTOR=factor, BLOCK=block, num_warps=4)

    @lamina.plugin("acme::scaled_add", types=lambda a, b, factor: a, triton=launches)
    def scaled_add(a, b, *, factor: float = 1.0):
        return a + factor * b

Each :class:`Launch` (or list of launches, which run one after the other) is a candidate; a build
times them and embeds the fastest, compiled, in the plan: it then runs without Triton and without
the module that registered the plugin.
"""

from __future__ import annotations

from lamina.ir.dims import ceildiv as cdiv
from lamina.plugins.launch import Launch, PluginTensor, Workspace
from lamina.plugins.registered import KIND, Plugin, find, plugin

__all__ = ["KIND", "Launch", "Plugin", "PluginTensor", "Workspace", "cdiv", "find", "plugin"]
