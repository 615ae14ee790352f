"""Links x86-64 ELF objects into one position-independent code image.

The image is a flat run of bytes: code first, then constant tables, then stubs and pointer slots for
external functions. It can be mapped at any page-aligned address. The formats are those of the
System V ABI (ELF-64 object files, AMD64 supplement, table 4.9 for relocations).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from lamina.errors import BuildError

_PROGBITS, _SYMTAB, _RELA, _NOBITS = 1, 2, 4, 8
_WRITE, _ALLOC, _EXECUTE = 1, 2, 4
_R_PC32, _R_PLT32, _R_GOTPCREL, _R_PC64, _R_GOTPCRELX, _R_REX_GOTPCRELX = 2, 4, 9, 24, 41, 42
_PC_RELATIVE = {_R_PC32: "<i", _R_PLT32: "<i", _R_PC64: "<q"}
_THROUGH_SLOT = (_R_GOTPCREL, _R_GOTPCRELX, _R_REX_GOTPCRELX)
_LOCAL, _SHN_UNDEF = 0, 0
_STUB = b"\xff\x25"  # jmp *disp32(%rip)


@dataclass(frozen=True)
class CodeImage:
    """Machine code ready to be mapped anywhere.

    ``symbols`` gives the offset of each exported function; ``externals`` names each external
    function with the offset of the 8-byte slot that must hold its address.
    """

    code: bytes
    symbols: dict[str, int]
    externals: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class _Section:
    kind: int
    flags: int
    data: bytes
    size: int
    align: int
    link: int
    info: int


@dataclass(frozen=True)
class _Symbol:
    name: str
    section: int
    value: int
    is_global: bool


@dataclass(frozen=True)
class _Object:
    sections: list[_Section]
    symbols: list[_Symbol]


@dataclass
class _Layout:
    """The image while it grows, with where each object's sections lie."""

    code: bytearray = field(default_factory=bytearray)
    places: dict[tuple[int, int], int] = field(default_factory=dict)
    exported: dict[str, int] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    stubs: dict[str, int] = field(default_factory=dict)

    def append(self, data: bytes, align: int) -> int:
        """Add bytes at the next multiple of the alignment and return their offset."""
        self.code.extend(bytes(-len(self.code) % max(1, align)))
        place = len(self.code)
        self.code.extend(data)
        return place


def link(objects: Sequence[bytes]) -> CodeImage:
    """Merge relocatable objects into one image.

    Raises BuildError when two objects export one name, or when an object needs writable data or a
    relocation that a position-independent image cannot express.
    """
    parsed = [_parse(data) for data in objects]
    layout = _Layout()
    for executable in (True, False):
        for index, obj in enumerate(parsed):
            _place_sections(layout, index, obj, executable=executable)
    for index, obj in enumerate(parsed):
        _export(layout, index, obj)
    for obj in parsed:
        _make_stubs(layout, obj)
    for index, obj in enumerate(parsed):
        _relocate(layout, index, obj)
    layout.append(b"", 64)
    return CodeImage(
        bytes(layout.code),
        dict(sorted(layout.exported.items())),
        tuple(sorted(layout.slots.items())),
    )


def _parse(data: bytes) -> _Object:
    if data[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<HH", data, 16) != (1, 62):
        raise BuildError("the compiler's output is not a relocatable x86-64 ELF object")
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    sections = []
    for i in range(count):
        _, kind, flags, _, offset, length, link_, info, align, _ = struct.unpack_from(
            "<IIQQQQIIQQ", data, table + i * size
        )
        body = b"" if kind == _NOBITS else data[offset : offset + length]
        sections.append(_Section(kind, flags, body, length, align, link_, info))
    symbols: list[_Symbol] = []
    for section in sections:
        if section.kind == _SYMTAB:
            names = sections[section.link].data
            symbols = [_symbol(section.data, names, at) for at in range(0, section.size, 24)]
    return _Object(sections, symbols)


def _symbol(table: bytes, names: bytes, at: int) -> _Symbol:
    name, info, _, section, value, _ = struct.unpack_from("<IBBHQQ", table, at)
    text = names[name : names.index(b"\0", name)].decode()
    return _Symbol(text, section, value, info >> 4 != _LOCAL)


def _place_sections(layout: _Layout, index: int, obj: _Object, *, executable: bool) -> None:
    for number, section in enumerate(obj.sections):
        if not section.flags & _ALLOC or not section.size:
            continue
        if bool(section.flags & _EXECUTE) != executable or section.kind not in (_PROGBITS, _NOBITS):
            continue
        if section.flags & _WRITE:
            raise BuildError(
                f"generated code needs {section.size} bytes of writable data, 0 allowed"
            )
        layout.places[index, number] = layout.append(section.data, section.align)


def _export(layout: _Layout, index: int, obj: _Object) -> None:
    for symbol in obj.symbols:
        if not symbol.is_global or symbol.section == _SHN_UNDEF:
            continue
        if symbol.name in layout.exported:
            raise BuildError(f"function {symbol.name} is exported by two objects")
        layout.exported[symbol.name] = layout.places[index, symbol.section] + symbol.value


def _make_stubs(layout: _Layout, obj: _Object) -> None:
    for symbol in obj.symbols:
        name = symbol.name
        if not symbol.is_global or symbol.section != _SHN_UNDEF or not name:
            continue
        if name in layout.exported or name in layout.slots:
            continue
        layout.slots[name] = layout.append(bytes(8), 8)
        stub = layout.append(_STUB, 8)
        layout.code.extend(struct.pack("<i", layout.slots[name] - (stub + 6)))
        layout.stubs[name] = stub


def _relocate(layout: _Layout, index: int, obj: _Object) -> None:
    for section in obj.sections:
        base = layout.places.get((index, section.info))
        if section.kind != _RELA or base is None:
            continue
        for at in range(0, section.size, 24):
            offset, info, addend = struct.unpack_from("<QQq", section.data, at)
            kind, symbol = info & 0xFFFFFFFF, obj.symbols[info >> 32]
            target = _target(layout, index, symbol, kind)
            place = base + offset
            form = _PC_RELATIVE.get(kind, "<i")
            struct.pack_into(form, layout.code, place, target + addend - place)


def _target(layout: _Layout, index: int, symbol: _Symbol, kind: int) -> int:
    if kind in _THROUGH_SLOT and symbol.name in layout.slots:
        return layout.slots[symbol.name]
    if kind not in _PC_RELATIVE:
        raise BuildError(
            f"relocation type {kind} against {symbol.name or 'a section'} has no fixed place"
        )
    if symbol.section != _SHN_UNDEF:
        return layout.places[index, symbol.section] + symbol.value
    if symbol.name in layout.exported:
        return layout.exported[symbol.name]
    return layout.stubs[symbol.name]
