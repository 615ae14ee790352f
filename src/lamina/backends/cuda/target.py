"""What a CUDA device offers, as far as kernels are chosen by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lamina.backends.cuda.primitive import Library
from lamina.ir.types import DType, TensorType
from lamina.tactics.form import Form

_DEPENDENT_SINCE = 90


@dataclass(frozen=True, kw_only=True)
class CudaTarget:
    """One kind of device, with the rates that the cost model counts with.

    ``arch`` is the compute capability times ten.  ``shared_bytes`` is what a block may ask for,
    ``flops_per_microsecond`` holds the dense matrix rate of each element type.  ``env`` gives the
    likeliest value of each symbol.  With ``tf32``, products of f32 numbers may round their factors
    to 11 bits.  ``spatial_ranks`` are the ranks of images in the graph.  ``library`` gives a
    library of the device by its name, or raises DeviceError; without a device there is none.  It
    counts for nothing where targets are compared: answers about kernels are kept between builds.
    """

    arch: int
    sms: int
    shared_bytes: int
    l2_bytes: int
    bytes_per_microsecond: float
    flops_per_microsecond: Mapping[str, float] = field(hash=False)
    tf32: bool = False
    env: Mapping[str, int] = field(default_factory=dict, hash=False)
    spatial_ranks: frozenset[int] = frozenset({3, 4, 5})
    library: Callable[[str], Library] | None = field(default=None, compare=False)

    @property
    def dependent(self) -> bool:
        """Whether a kernel may start before the one ahead of it has ended."""
        return self.arch >= _DEPENDENT_SINCE

    def forms(self, type: object) -> tuple[Form, ...]:
        """Return the forms that a value of this type may have, the default first."""
        if isinstance(type, TensorType) and type.rank in self.spatial_ranks:
            return (Form.PLAIN, Form.CHANNELS_LAST)
        return (Form.PLAIN,)

    def rate(self, dtype: DType) -> float:
        """Return the matrix rate for operands of a type, in operations a microsecond."""
        if dtype is DType.F32 and self.tf32:
            return self.flops_per_microsecond["tf32"]
        return self.flops_per_microsecond.get(dtype.value, self.flops_per_microsecond["f32"])


def _target(
    arch: int, sms: int, shared_kib: int, l2_mib: int, gigabytes: float, *teraflops: float
) -> CudaTarget:
    """Return a target: memory in GB/s, then TFLOP/s (or TOP/s) of f32, tf32, f16, i8, fp8."""
    f32, tf32, half, int8, *fp8 = (rate * 1e6 for rate in teraflops)
    rates = {"f32": f32, "tf32": tf32, "f16": half, "bf16": half if arch >= 80 else f32}
    rates |= {"i8": int8, "u8": int8}
    return CudaTarget(
        arch=arch,
        sms=sms,
        shared_bytes=shared_kib << 10,
        l2_bytes=l2_mib << 20,
        bytes_per_microsecond=gigabytes * 1e3,
        flops_per_microsecond=rates | ({"f8e4m3": fp8[0], "f8e5m2": fp8[0]} if fp8 else {}),
    )


# For builds on a machine without the device.  sm_90 was measured on an H200 (copy bandwidth and
# f16 rate); the others are the vendor's data sheets of T4, A100, A10, L4, B200 and RTX 5090.
TARGETS = {
    75: _target(75, 40, 64, 4, 300, 8.1, 8.1, 65, 130),
    80: _target(80, 108, 163, 40, 1900, 19.5, 156, 312, 624),
    86: _target(86, 72, 99, 6, 600, 31, 62, 125, 250),
    89: _target(89, 58, 99, 48, 300, 30, 60, 121, 242, 242),
    90: _target(90, 132, 227, 60, 4300, 50, 390, 790, 1500, 1500),
    100: _target(100, 148, 227, 126, 7700, 75, 1100, 2200, 4400, 4400),
    120: _target(120, 170, 99, 96, 1790, 105, 105, 210, 420, 420),
}
