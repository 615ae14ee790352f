"""Files that are no engines of Lamina's, by how they begin."""

from __future__ import annotations

from lamina.errors import PlanError

_NVIDIA = (b"ptrt", b"ftrt", b"rtrt")
"""How the engine files of NVIDIA's library begin."""
_VERSION = slice(24, 28)
"""Where their version is: major, minor, patch and build, a byte each."""
_KNOWN_MAJORS = range(5, 20)
_KINDS = (
    (b"PK\x03\x04", "a zip archive, as torch.save and torch.jit.save write"),
    (b"\x7fELF", "a shared library or program"),
    (b"\x89HDF", "an HDF5 file"),
    (b"{", "text in JSON"),
)
_ONNX_VERSIONS = range(1, 32)


def refuse_foreign(head: bytes) -> None:
    """Raise PlanError for bytes that begin as another kind of file does.

    ``head`` is the begin of the file, 64 bytes where there are as many.
    """
    if not head:
        raise PlanError("the engine is empty: 0 bytes", hint="was the file written to its end?")
    if head[:4] in _NVIDIA:
        version = tuple(head[_VERSION])
        known = len(version) == 4 and version[0] in _KNOWN_MAJORS
        name = ".".join(map(str, version)) if known else "of an unknown version"
        raise PlanError(
            f"the engine was built by NVIDIA TensorRT {name}, whose code only its own library can "
            f"run",
            hint="build it again from its network or its ONNX model",
        )
    if len(head) > 2 and head[0] == 0x08 and head[1] in _ONNX_VERSIONS:
        raise PlanError(
            "this looks like an ONNX model, not like an engine",
            hint="parse it with OnnxParser and build it",
        )
    for begin, kind in _KINDS:
        if head.startswith(begin):
            raise PlanError(f"this is {kind}, not an engine")
