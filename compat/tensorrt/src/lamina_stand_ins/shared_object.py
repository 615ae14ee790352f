"""Writes shared libraries whose functions jump to addresses in a table (x86-64 ELF).

The table is filled in after loading, with callbacks.  Format: System V ABI, "Object Files" and
"Dynamic Linking"; there are no sections, only what the loader reads.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

TABLE = "lamina_table"
"""Symbol of the table of addresses, in the order of the functions."""

_PAGE = 0x1000
_HEADER_BYTES, _SEGMENT_BYTES, _SYMBOL_BYTES, _STUB_BYTES = 64, 56, 24, 32
_EXECUTABLE, _WRITABLE = 5, 6
_FUNCTION, _OBJECT = 0x12, 0x11  # global symbols


def write_library(name: str, functions: Sequence[str], otherwise: int) -> bytes:
    """Return a library called ``name`` with these functions.

    A function whose place in the table is still 0 returns ``otherwise``.
    """
    strings, places = _strings([name, TABLE, *functions])
    symbols = len(functions) + 2  # the first symbol is empty
    at_hash = _HEADER_BYTES + 4 * _SEGMENT_BYTES
    at_symbols = _aligned(at_hash + 4 * (3 + symbols), 8)
    at_strings = at_symbols + _SYMBOL_BYTES * symbols
    at_code = _aligned(at_strings + len(strings), 16)
    code_end = at_code + _STUB_BYTES * len(functions)
    at_dynamic = _aligned(code_end, _PAGE)
    dynamic = _dynamic(places[name], at_hash, at_strings, at_symbols, len(strings))
    at_table = at_dynamic + len(dynamic)
    end = at_table + 8 * len(functions)

    image = bytearray(end)
    image[:_HEADER_BYTES] = _header(4)
    segments = [
        _segment(1, _EXECUTABLE, 0, code_end, _PAGE),
        _segment(1, _WRITABLE, at_dynamic, end - at_dynamic, _PAGE),
        _segment(2, _WRITABLE, at_dynamic, len(dynamic), 8),
        _segment(0x6474E551, _WRITABLE, 0, 0, 16),  # a stack that is not executable
    ]
    image[_HEADER_BYTES:at_hash] = b"".join(segments)
    # One bucket: every look-up walks the chain of all symbols.
    chain = [0, *range(2, symbols), 0]
    image[at_hash : at_hash + 4 * (3 + symbols)] = struct.pack(
        f"<{3 + symbols}I", 1, symbols, 1, *chain
    )
    entries = [bytes(_SYMBOL_BYTES), _symbol(places[TABLE], _OBJECT, at_table, 8 * len(functions))]
    for number, function in enumerate(functions):
        stub = at_code + _STUB_BYTES * number
        entries.append(_symbol(places[function], _FUNCTION, stub, _STUB_BYTES))
        code = _stub(at_table + 8 * number - stub, otherwise)
        image[stub : stub + len(code)] = code
    image[at_symbols : at_symbols + _SYMBOL_BYTES * symbols] = b"".join(entries)
    image[at_strings : at_strings + len(strings)] = strings
    image[at_dynamic:at_table] = dynamic
    return bytes(image)


def _stub(distance: int, otherwise: int) -> bytes:
    """Return code that jumps to the address ``distance`` bytes from it, unless that is 0."""
    load = b"\x48\x8b\x05" + struct.pack("<i", distance - 7)  # mov rax, [rip + distance - 7]
    test = b"\x48\x85\xc0\x74\x02\xff\xe0"  # test rax, rax; je over the jump; jmp rax
    return load + test + b"\xb8" + struct.pack("<i", otherwise) + b"\xc3"  # mov eax, n; ret


def _aligned(at: int, to: int) -> int:
    return -(-at // to) * to


def _strings(names: Sequence[str]) -> tuple[bytes, dict[str, int]]:
    """Return a string table and the place of each name in it."""
    table, places = bytearray(b"\0"), {}
    for name in names:
        places[name] = len(table)
        table += name.encode() + b"\0"
    return bytes(table), places


def _header(segments: int) -> bytes:
    identification = b"\x7fELF\x02\x01\x01" + bytes(9)
    shared, x86_64 = 3, 62
    return identification + struct.pack(
        "<HHIQQQIHHHHHH", shared, x86_64, 1, 0, _HEADER_BYTES, 0, 0, _HEADER_BYTES, _SEGMENT_BYTES,
        segments, 64, 0, 0,
    )  # fmt: skip


def _segment(kind: int, flags: int, at: int, size: int, align: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, flags, at, at, at, size, size, align)


def _symbol(name: int, kind: int, at: int, size: int) -> bytes:
    return struct.pack("<IBBHQQ", name, kind, 0, 1, at, size)


def _dynamic(name: int, hash: int, strings: int, symbols: int, strings_bytes: int) -> bytes:
    entries = {14: name, 4: hash, 5: strings, 6: symbols, 10: strings_bytes, 11: _SYMBOL_BYTES}
    return b"".join(struct.pack("<QQ", tag, value) for tag, value in [*entries.items(), (0, 0)])
