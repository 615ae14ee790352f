"""Layouts: requests, what the library chose, and the way back."""

from __future__ import annotations

import numpy as np
import pytest

from lamina.backends.cpu.onednn import memory, packing, primitives
from lamina.backends.cpu.onednn.convolution import Convolution
from lamina.backends.cpu.onednn.memory import Layout
from lamina.errors import DeviceError, InputError
from lamina.ir.blocks import blocked


def chosen(onednn, layout):
    descriptor = memory.create_descriptor(onednn, layout)
    try:
        return memory.read_descriptor(onednn, descriptor)
    finally:
        onednn.call("memory_desc_destroy", descriptor)


def test_named_and_strided_layouts_agree(onednn):
    dims = (2, 19, 5, 6)
    assert chosen(onednn, Layout.dense(dims)) == chosen(onednn, Layout(dims, tag="nchw"))
    last = Layout.channels_last(dims)
    assert last.strides == (19 * 30, 1, 19 * 6, 19)
    assert chosen(onednn, last) == chosen(onednn, Layout(dims, tag="nhwc"))
    assert chosen(onednn, Layout.blocked(dims, 16)) == chosen(onednn, Layout(dims, tag="nChw16c"))
    five = (2, 19, 3, 5, 6)
    assert chosen(onednn, Layout.blocked(five, 8)) == chosen(onednn, Layout(five, tag="nCdhw8c"))
    assert chosen(onednn, Layout.channels_last(five)) == chosen(onednn, Layout(five, tag="ndhwc"))


@pytest.mark.parametrize(
    ("tag", "rank", "generic"),
    [
        ("nchw", 4, "abcd"),
        ("nhwc", 4, "acdb"),
        ("nCw16c", 3, "aBc16b"),
        ("nChw8c", 4, "aBcd8b"),
        ("OIhw16i16o", 4, "ABcd16b16a"),
        ("gOIhw16i16o", 5, "aBCde16c16b"),
        ("Goihw16g", 5, "Abcde16a"),
        ("aBcd16b", 4, "aBcd16b"),
    ],
)
def test_customary_tags_are_translated(onednn, tag, rank, generic):
    assert memory.generic_tag(tag, rank) == generic
    assert generic in onednn.tags


def test_blocked_layout_counts_its_padding(onednn):
    layout = chosen(onednn, Layout.blocked((2, 19, 5, 6), 16))
    assert layout.padded_dims == (2, 32, 5, 6)
    assert (layout.inner_blocks, layout.inner_axes) == ((16,), (1,))
    assert layout.size_bytes == 2 * 32 * 30 * 4
    assert layout.has_padding and not layout.is_plain
    again = chosen(onednn, Layout.blocked((2, 19, 5, 6), 16))
    other = chosen(onednn, Layout.blocked((2, 19, 5, 6), 8))
    assert len({layout, again}) == 1 and layout.fingerprint == again.fingerprint
    assert layout != other and layout.fingerprint != other.fingerprint


def test_slices_keep_the_strides_of_their_parent(onednn):
    child, parent = (2, 16, 5, 6), (2, 48, 5, 6)
    for make in (Layout.dense, Layout.channels_last, lambda d: Layout.blocked(d, 16)):
        inside = chosen(onednn, make(child).within(parent))
        assert inside.strides == chosen(onednn, make(parent)).strides
        assert inside.dims == child


@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8", "i32"])
@pytest.mark.parametrize("tag", ["nchw", "nhwc", "nChw16c", "nChw8c", "nChw4c"])
def test_packing_and_unpacking_is_lossless(onednn, rng, tag, dtype):
    array = rng.integers(-9, 9, (2, 19, 5, 6)).astype(memory.NUMPY_DTYPE[dtype])
    layout = Layout(array.shape, dtype, tag=tag)
    packed = packing.pack_as(onednn, array, layout)
    assert packed.ctypes.data % 64 == 0
    assert np.array_equal(packing.unpack_from(onednn, packed, layout), array)


def test_packed_blocks_are_where_the_layout_says(onednn, rng):
    array = rng.standard_normal((2, 19, 5, 6)).astype(np.float32)
    packed = packing.pack_as(onednn, array, Layout.blocked(array.shape, 16)).view(np.float32)
    blocks = packed.reshape(2, 2, 5, 6, 16).transpose(0, 1, 4, 2, 3).reshape(2, 32, 5, 6)
    assert np.array_equal(blocks[:, :19], array)
    assert not blocks[:, 19:].any()


def test_plain_layouts_are_viewed_without_a_copy(onednn, rng):
    array = rng.standard_normal((2, 19, 5, 6)).astype(np.float32)
    layout = Layout.channels_last(array.shape)
    packed = packing.pack_as(onednn, array, layout)
    view = chosen(onednn, layout).view(packed)
    assert np.array_equal(view, array) and np.shares_memory(view, packed)


def test_transposed_arrays_are_packed(onednn, rng):
    array = rng.standard_normal((5, 6, 19, 2)).astype(np.float32).transpose(3, 2, 0, 1)
    layout = Layout.blocked(array.shape, 16)
    packed = packing.pack_as(onednn, array, layout)
    assert np.array_equal(packing.unpack_from(onednn, packed, layout), array)


@pytest.mark.parametrize("make", [Layout.dense, Layout.channels_last, Layout.any])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("groups", [1, 4])
def test_chosen_layouts_can_be_requested_again(onednn, needs, make, dtype, groups):
    needs(dtype)
    weights = (32, 64, 3, 3) if groups == 1 else (groups, 8, 16, 3, 3)
    spec = Convolution(
        make((1, 64, 8, 8), dtype), Layout.any(weights, dtype), make((1, 32, 6, 6), dtype)
    )
    primitive = primitives.create(onednn, spec)
    for name in ("src", "weights", "dst"):
        layout = primitive.layout(name)
        again = memory.as_request(onednn, layout)
        assert again is not None
        assert chosen(onednn, again) == layout


def test_weights_with_compensation_cannot_be_requested(onednn):
    spec = Convolution(
        Layout.channels_last((1, 64, 8, 8), "i8"), Layout.any((32, 64, 3, 3), "i8"),
        Layout.channels_last((1, 32, 6, 6), "i32"),
    )  # fmt: skip
    layout = primitives.create(onednn, spec).weights_layout
    assert layout.size_bytes > 32 * 64 * 9
    assert memory.as_request(onednn, layout) is None


def test_bad_layouts_are_refused(onednn):
    with pytest.raises(DeviceError, match="no element type i64"):
        Layout.dense((2, 3), "i64")
    with pytest.raises(DeviceError, match="1 to 12 dimensions, not 13"):
        Layout.dense((1,) * 13)
    with pytest.raises(DeviceError, match="2 dims but 3 strides"):
        Layout((2, 3), strides=(1, 2, 3))
    with pytest.raises(DeviceError, match="no memory format nChw7c"):
        memory.create_descriptor(onednn, Layout((1, 7, 2, 2), tag="nChw7c"))
    with pytest.raises(InputError, match="no element type int64"):
        packing.layout_of(np.arange(3))


@pytest.mark.parametrize(
    ("shape", "tag", "dtype"),
    [
        ((40, 19, 3, 3), "OIhw16i16o", "f32"),
        ((40, 19, 3, 3), "Ohwi16o", "f32"),
        ((40, 19, 1, 1), "OIhw4i16o4i", "i8"),
        ((2, 24, 12, 3, 3), "gOIhw16i16o", "f32"),
        ((70, 33), "BA16a64b2a", "bf16"),
        ((70, 33), "ba", "f32"),
    ],
)
def test_recipes_of_blocked_layouts_give_what_the_library_packs(onednn, rng, shape, tag, dtype):
    array = rng.integers(-9, 9, shape).astype(memory.NUMPY_DTYPE[dtype])
    layout = Layout(shape, dtype, tag=tag)
    if onednn.tags.get(memory.generic_tag(tag, len(shape))) is None:
        pytest.skip(f"no format {tag}")
    found = chosen(onednn, layout)
    blocks, order = packing._blocks(found)
    ours = blocked(array, blocks, order, found.padded_dims)
    np.testing.assert_array_equal(
        ours.reshape(-1).view(np.uint8), packing.pack_as(onednn, array, layout)
    )
