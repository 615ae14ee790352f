"""Kernels that make constants from weights on the device, which plans hold for refits."""

from __future__ import annotations

from typing import Final

from lamina.backends.cuda.packing import BLOCK, WARPS, function_of
from lamina.backends.cuda.request import MODULE, KernelRequest, Number
from lamina.ir.movement import CHAINS, TYPES, conversions, kernel_name

_BITS: Final = {1: "*u8", 2: "*u16", 4: "*u32"}
_TRANSFORM_POINTERS: Final = {
    "source": "*u32", "factors": "*u32", "matrix": "*fp64", "result": "*fp32"
}  # fmt: skip
_TRANSFORM_NUMBERS: Final = ("COUNT", "CHANNELS", "FILTERS", "DEPTH", "POSITIONS")
_NUMBERS: Final = (
    "COUNT", "n1", "n2", "n3", "n4", *(f"{kind}{i}" for kind in "sfr" for i in range(5))
)  # fmt: skip


def packing_kernels(precision: str) -> dict[str, KernelRequest]:
    """Return the kernels for the weights of a network by their names in the code image."""
    return {kernel_name(chain): _request(chain) for chain in CHAINS["cuda"][precision]}


def _request(chain: str) -> KernelRequest:
    converts = conversions(chain)
    types = (converts.source, converts.result) if converts else ("", "")
    sizes = [TYPES[t].itemsize for t in types] if converts else [int(chain)] * 2
    scaled = converts is not None and converts.multiplies
    constants: dict[str, Number] = {"SCALED": scaled, "BLOCK": BLOCK}
    source, factors, result = (_BITS[sizes[0]], "*u32", _BITS[sizes[1]])
    parameters = {"source": source, "factors": factors, "result": result}
    numbers = _NUMBERS
    if taps := int(chain.partition("@")[2] or 0):
        constants["TAPS"], numbers = taps, _TRANSFORM_NUMBERS
        parameters = _TRANSFORM_POINTERS
    else:
        constants |= {"SOURCE": types[0], "RESULT": types[1]}
    return KernelRequest(
        function=function_of(chain),
        source=f"{MODULE}lamina.backends.cuda.kernels.packing",
        parameters=(*parameters.items(), *((n, "i32") for n in numbers)),
        constants=tuple(constants.items()),
        warps=WARPS,
    )
