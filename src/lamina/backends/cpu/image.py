"""Maps a code image executable and gives the addresses of its functions, without any compiler."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping, Sequence
from types import MappingProxyType, TracebackType

from lamina.errors import DeviceError, PlanError

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
)  # fmt: skip
_LIBC.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MAP_FAILED = ctypes.c_void_p(-1).value


class LoadedImage:
    """A mapped code image; its functions may be called until ``close``."""

    def __init__(self, base: int, nbytes: int, symbols: Mapping[str, int]) -> None:
        self._base = base
        self._nbytes = nbytes
        self.addresses: dict[str, int] = {name: base + at for name, at in symbols.items()}

    def address(self, name: str) -> int:
        """Return the absolute address of an exported function; PlanError when there is none."""
        try:
            return self.addresses[name]
        except KeyError:
            raise PlanError(f"the code image has no function {name}") from None

    def close(self) -> None:
        """Unmap the code; its addresses are invalid afterwards. Calling it again does nothing."""
        if self._nbytes:
            self.addresses = {}
            _LIBC.munmap(self._base, self._nbytes)
            self._nbytes = 0

    def __enter__(self) -> LoadedImage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def load_image(
    code: bytes,
    symbols: Mapping[str, int],
    externals: Sequence[tuple[str, int]] = (),
    addresses: Mapping[str, int] = MappingProxyType({}),
) -> LoadedImage:
    """Map code at a fresh address, fill its slots, and make it executable.

    External functions come from ``addresses``, else from this process's libraries. Memory is never
    writable and executable at once. Raises PlanError when an offset lies outside the code or an
    external function is missing, DeviceError when the system refuses the mapping.
    """
    if not code:
        return LoadedImage(0, 0, {})
    for name, offset in (*symbols.items(), *externals):
        if not 0 <= offset < len(code):
            raise PlanError(f"{name} lies at offset {offset} of {len(code)} bytes of code")
    slots = [(addresses.get(name) or _external(name), offset) for name, offset in externals]
    nbytes = -(-len(code) // mmap.PAGESIZE) * mmap.PAGESIZE
    base = _LIBC.mmap(
        None, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0
    )
    if base is None or base == _MAP_FAILED:
        raise DeviceError(f"cannot map {nbytes} bytes for code (errno {ctypes.get_errno()})")
    image = LoadedImage(base, nbytes, symbols)
    ctypes.memmove(base, code, len(code))
    for address, offset in slots:
        if offset + 8 > len(code):
            raise PlanError(f"a slot at offset {offset} ends after {len(code)} bytes of code")
        ctypes.c_uint64.from_address(base + offset).value = address
    if _LIBC.mprotect(base, nbytes, mmap.PROT_READ | mmap.PROT_EXEC):
        raise DeviceError(
            f"the system refuses executable memory (errno {ctypes.get_errno()})",
            hint="load with native_code=False, or allow executable mappings for this process",
        )
    return image


def _external(name: str) -> int:
    try:
        address = ctypes.cast(getattr(_LIBC, name), ctypes.c_void_p).value
    except AttributeError:
        raise PlanError(f"the code image calls {name}, which this process does not have") from None
    if address is None:
        raise PlanError(f"the code image calls {name}, whose address is null")
    return address
