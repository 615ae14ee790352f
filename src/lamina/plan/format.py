r"""Plan files.

::

     8 bytes   magic b"LAMPLAN\0"
     4 bytes   format version, little-endian
     4 bytes   zero
     8 bytes   length N of the header, little-endian
    16 bytes   BLAKE2b-128 of the header
     N bytes   header: UTF-8 JSON with sorted keys, padded with spaces to a multiple of 64
     rest      blobs, each at a multiple of 64 bytes, zeros between them

The header's ``blobs`` gives for each blob its offset (from the end of the header), length, checksum
(see :mod:`lamina.plan.checksum`), element type and shape.  A blob is stored once however often it
is used.  Nothing in a file runs when it is read; there is no pickle.

Recipes of constants (:mod:`lamina.plan.recipes`) are a blob of their own, read when a refit needs
them.  A plan saved without weights has entries of blobs with ``absent``, which hold no bytes.  A
section whose target says ``profile`` serves that optimization profile alone; it stands behind the
one for all of them.

A section's ``operations``, where it has them, count additions and multiplications of each step of
its program.

What the header says is checked for consistency (:mod:`lamina.plan.check`), so that a header which
contradicts itself ends in a PlanError.

Reading maps the file and checks the header and the blobs of the section that will be used; blobs of
the portable graph are checked when they are needed.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from lamina.errors import PlanError, where
from lamina.ir.dims import Dim
from lamina.ir.types import DType
from lamina.ir.weight import Weight
from lamina.plan.check import check_plan
from lamina.plan.checksum import checksum
from lamina.plan.encode import decode, encode
from lamina.plan.named import settled
from lamina.plan.plan import CodeImage, Plan, Program, Section
from lamina.plan.strip import absent

MAGIC, VERSION, ALIGN = b"LAMPLAN\0", 1, 64
_HEAD = struct.Struct("<8sIIQ16s")
_DAMAGE: Final = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip
"""What reading a header of the wrong shape runs into."""
_AGAIN: Final = "copy the file again, or build the plan again from its model"


class _BlobTable:
    """Collects blobs while a header is made; equal contents are stored once."""

    def __init__(self) -> None:
        self.index: dict[Weight, int] = {}
        self.entries: list[dict[str, Any]] = []
        self.arrays: list[np.ndarray[Any, Any]] = []
        self.end = 0

    def add(self, weight: Weight) -> int:
        if weight in self.index:
            return self.index[weight]
        array = np.ascontiguousarray(weight.array)
        if array.dtype == object:
            raw = np.frombuffer(json.dumps(array.reshape(-1).tolist()).encode(), np.uint8)
        else:
            raw = array.reshape(-1).view(np.uint8)
        begin = -(-self.end // ALIGN) * ALIGN
        self.entries.append(_entry(weight, begin, raw))
        self.arrays.append(raw)
        self.end = begin + raw.size
        self.index[weight] = len(self.entries) - 1
        return self.index[weight]

    def add_absent(self, weight: Weight) -> int:
        """Add a blob of which only type and shape are stored."""
        nothing = np.empty(0, np.uint8)
        self.entries.append(_entry(weight, self.end, nothing) | {"absent": True})
        self.arrays.append(nothing)
        return len(self.entries) - 1


def _entry(weight: Weight, begin: int, raw: np.ndarray[Any, Any]) -> dict[str, Any]:
    array = weight.contents
    return {
        "at": begin,
        "bytes": int(raw.size),
        "checksum": checksum(raw),
        "dtype": DType.of(array.dtype).value,
        "shape": list(array.shape),
        "name": weight.name,
    }


def plan_chunks(plan: Plan) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a plan file in order, without copying the weights."""
    plan = settled(plan)
    table = _BlobTable()
    header: dict[str, Any] = {
        "config": dict(plan.config),
        "ranges": encode(plan.ranges),
        "graph": plan.graph,
        "fallbacks": list(plan.fallbacks),
        "sections": [_section_header(s, table) for s in plan.sections],
        "weights": {digest: table.add(w) for digest, w in sorted(plan.weights.items())},
    }
    if plan.notes:  # a plan without notes keeps the bytes that it had before there were any
        header["notes"] = dict(plan.notes)
    header["blobs"] = table.entries
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-(_HEAD.size + len(text)) % ALIGN)
    digest = hashlib.blake2b(text, digest_size=16).digest()
    yield _HEAD.pack(MAGIC, VERSION, 0, len(text), digest)
    yield text
    position = 0
    for entry, raw in zip(table.entries, table.arrays, strict=True):
        yield bytes(entry["at"] - position)
        yield raw.data
        position = entry["at"] + entry["bytes"]


def _section_header(section: Section, table: _BlobTable) -> dict[str, Any]:
    image = section.image
    code = Weight(np.frombuffer(image.code, np.uint8))
    header = {
        "target": encode(section.target),
        "program": encode(section.program),
        "code": table.add(code),
        "symbols": dict(image.symbols),
        "externals": encode(image.externals),
        "blobs": [
            table.add_absent(w) if i in section.absent else table.add(w)
            for i, w in enumerate(section.blobs)
        ],
        "halves": list(section.halves),
    }
    if section.recipes:
        header["recipes"] = table.add(Weight(np.frombuffer(section.recipes.encode(), np.uint8)))
        header["literals"] = [table.add(w) for w in section.literals]
    if section.absent:
        header["absent"] = list(section.absent)
    if section.operations:
        header["operations"] = encode(section.operations)
    return header


def write_plan(plan: Plan) -> bytes:
    """Serialize ``plan``; equal plans give equal bytes."""
    return b"".join(plan_chunks(plan))


def save_plan(plan: Plan, path: str | os.PathLike[str]) -> None:
    """Write a plan file: to a temporary file beside it, then renamed.

    Raises PlanError when the disk is full or the place cannot be written; nothing half-written
    stays behind, and an older file of that name is kept until the new one is whole.
    """
    target = Path(path)
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "wb") as f:
            for chunk in plan_chunks(plan):
                f.write(chunk)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
        temporary = None
    except OSError as e:
        hint = "free some space or choose another place" if e.errno == 28 else None
        raise PlanError(f"cannot write {target}: {e.strerror or e}", hint=hint) from e
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Map a plan file and read it; raises PlanError."""
    if not isinstance(path, str | os.PathLike):
        raise PlanError(f"a plan is a path or bytes, not {type(path).__name__}")
    try:
        with open(path, "rb") as f:
            if os.fstat(f.fileno()).st_size == 0:
                raise PlanError(f"{os.fspath(path)} is empty", hint=_AGAIN)
            data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as e:
        raise PlanError(f"cannot read {os.fspath(path)}: {e.strerror or e}") from e
    with where(f"in {os.fspath(path)}"):
        return read_plan(data)


def read_plan(data: bytes | mmap.mmap) -> Plan:
    """Parse and check a plan file; raises PlanError and never executes anything.

    The arrays of the plan are views into ``data``.
    """
    try:
        header, blobs = _header(data)
        sections = tuple(_read_section(s, blobs) for s in header["sections"])
        plan = Plan(
            graph=_text(header["graph"]),
            weights=_LazyWeights(_indices(header["weights"], blobs), blobs),
            config=tuple((str(k), str(v)) for k, v in sorted(header["config"].items())),
            ranges=tuple((str(n), int(a), int(b), int(c)) for n, a, b, c in header["ranges"]),
            sections=sections,
            fallbacks=tuple(_text(f) for f in header["fallbacks"]),
            notes=tuple((k, _text(v)) for k, v in sorted(header.get("notes", {}).items())),
        )
        check_plan(plan)
    except _DAMAGE as e:
        fact = f"the plan's header is damaged: {type(e).__name__}: {e}"
        raise PlanError(fact, hint=_AGAIN) from e
    except PlanError as e:
        e.hint = e.hint or _AGAIN
        raise
    return plan


def _header(data: bytes | mmap.mmap) -> tuple[dict[str, Any], _Blobs]:
    if len(data) < _HEAD.size or data[:8] != MAGIC:
        raise PlanError("not a plan file", hint="plans are made by `lamina build`")
    _, version, reserved, length, digest = _HEAD.unpack(data[: _HEAD.size])
    if version != VERSION:
        raise PlanError(
            f"the plan has format {version}, this version of Lamina reads format {VERSION}",
            hint="build the plan again from its model",
        )
    if reserved:
        raise PlanError(f"the plan's header is damaged: {reserved} stands where zero belongs")
    end = _HEAD.size + length
    if end > len(data):
        raise PlanError(f"the plan is truncated: {len(data)} bytes, its header alone needs {end}")
    text = data[_HEAD.size : end]
    if hashlib.blake2b(text, digest_size=16).digest() != digest:
        raise PlanError("the plan's header is damaged: its checksum differs")
    try:
        header = json.loads(text)
        blobs = _Blobs(np.frombuffer(data, np.uint8), end, header["blobs"])
    except _DAMAGE as e:
        raise PlanError(f"the plan's header is damaged: {e}") from e
    return header, blobs


class _Blobs:
    """The blobs of a file, checked when they are read."""

    def __init__(self, data: np.ndarray[Any, Any], begin: int, entries: list[Any]) -> None:
        self.data, self.begin, self.entries = data, begin, entries
        for e in entries:
            sizes = (e["at"], e["bytes"], *e["shape"])
            if not all(type(n) is int and n >= 0 for n in sizes):
                raise ValueError(f"a blob has the sizes {sizes}")
            _text(e["name"])
            if (need := begin + e["at"] + e["bytes"]) > data.size:
                raise PlanError(f"the plan is truncated: {data.size} bytes, it needs {need}")

    def read(self, index: int) -> Weight:
        """Return blob ``index`` as a view; raises PlanError when its bytes are damaged."""
        if type(index) is not int or not 0 <= index < len(self.entries):
            raise PlanError(f"the plan is damaged: blob {index!r} of {len(self.entries)} is named")
        e = self.entries[index]
        begin = self.begin + e["at"]
        raw = self.data[begin : begin + e["bytes"]]
        if checksum(raw) != e["checksum"]:
            raise PlanError(f"the plan is damaged: the checksum of blob {index} differs")
        dtype, shape = DType(e["dtype"]), tuple(e["shape"])
        if e.get("absent"):
            return absent(dtype.numpy, shape, e["name"])
        if dtype is DType.STR:
            return Weight(_strings(json.loads(raw.tobytes())).reshape(shape), e["name"])
        return Weight(raw.view(dtype.numpy).reshape(shape), e["name"])

    def read_all(self, indices: list[int]) -> tuple[Weight, ...]:
        """Return several blobs; another thread checks half of their bytes meanwhile.

        Raises what ``read`` does.
        """
        pending = deque(enumerate(indices))
        ready: dict[int, Weight] = {}

        def read(take: Callable[[], tuple[int, int]]) -> None:
            # Whatever ends this early leaves blobs unread, and is raised where they are read again.
            with suppress(PlanError, *_DAMAGE):
                while pending:
                    place, index = take()
                    ready[place] = self.read(index)

        helper = threading.Thread(target=read, args=(pending.pop,))
        helper.start()
        read(pending.popleft)
        helper.join()
        return tuple(ready.get(i) or self.read(index) for i, index in enumerate(indices))


class _LazyWeights(Mapping[str, Weight]):
    """The weights of the portable graph, read on first use."""

    def __init__(self, index: dict[str, int], blobs: _Blobs) -> None:
        self.index, self.blobs = dict(index), blobs
        self.read: dict[str, Weight] = {}

    def __getitem__(self, digest: str) -> Weight:
        if digest not in self.read:
            self.read[digest] = self.blobs.read(self.index[digest])
        return self.read[digest]

    def __iter__(self) -> Iterator[str]:
        return iter(self.index)

    def __len__(self) -> int:
        return len(self.index)


def _indices(table: Any, blobs: _Blobs) -> dict[str, int]:
    """Return the numbers of blobs by digest, all of which exist."""
    for number in table.values():
        if type(number) is not int or not 0 <= number < len(blobs.entries):
            raise ValueError(f"there is no blob {number}")
        if blobs.entries[number].get("absent"):
            raise ValueError(f"blob {number} is absent")
    return {_text(digest): number for digest, number in table.items()}


def _strings(items: list[Any]) -> np.ndarray[Any, Any]:
    array = np.empty(len(items), object)
    array[:] = [_text(item) for item in items]
    return array


def _read_section(header: dict[str, Any], blobs: _Blobs) -> Section:
    externals = tuple((str(n), int(at)) for n, at in header["externals"])
    return Section(
        target=tuple((str(k), str(v)) for k, v in header["target"]),
        program=decode(Program, header["program"]),
        image=CodeImage(
            code=blobs.read(header["code"]).array.tobytes(),
            symbols={str(k): int(v) for k, v in header["symbols"].items()},
            externals=externals,
        ),
        blobs=blobs.read_all(header["blobs"]),
        halves=decode(tuple[int, ...], header["halves"]),
        recipes=_recipes(header, blobs),
        literals=tuple(blobs.read(i) for i in header.get("literals", [])),
        absent=_absent(header, blobs),
        operations=decode(tuple[Dim, ...], header.get("operations", [])),
    )


def _absent(header: dict[str, Any], blobs: _Blobs) -> tuple[int, ...]:
    """Return which blobs hold nothing; raises PlanError unless their entries say the same."""
    absent = decode(tuple[int, ...], header.get("absent", []))
    entries = [bool(blobs.entries[number].get("absent")) for number in header["blobs"]]
    if absent != tuple(i for i, is_absent in enumerate(entries) if is_absent):
        raise PlanError(f"the plan is damaged: it says that blobs {absent} are absent")
    return absent


def _recipes(header: dict[str, Any], blobs: _Blobs) -> str:
    if "recipes" not in header:
        return ""
    return blobs.read(header["recipes"]).contents.tobytes().decode()


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value
