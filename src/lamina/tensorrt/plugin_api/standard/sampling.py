"""Standard plugins that sample feature maps at computed places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lamina.errors import GraphError
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.tensorrt.plugin_api.standard.definition import (
    Attributes,
    Definition,
    composed,
    known,
    numbers,
    pair,
    written,
)
from lamina.tensorrt.plugin_api.standard.suppression import positions
from lamina.tensorrt.plugin_api.standard.tensors import Tensor, joined

_HALF_PIXEL = {1: "output_half_pixel", 2: "half_pixel"}


def _roi_align(a: Attributes, inputs: Sequence[Value]) -> str:
    mode = "max" if a["mode"] == 0 else "avg"
    transform = "output_half_pixel" if a["coordinate_transformation_mode"] == 0 else "half_pixel"
    settings = ", ".join(
        [
            f'mode = "{mode}"',
            f'coordinate_transformation_mode = "{transform}"',
            f"output_height = {int(a['output_height'])}",
            f"output_width = {int(a['output_width'])}",
            f"sampling_ratio = {int(a['sampling_ratio'])}",
            f"spatial_scale = {float(a['spatial_scale'])}",
        ]
    )
    return f"""f (x, rois, batches) => (y) {{
        wide = Cast <to = 7> (batches)
        y = RoiAlign <{settings}> (x, rois, wide)
    }}"""


def _crop_and_resize(a: Attributes, maps: Tensor, regions: Tensor) -> Tensor:
    """Bilinear samples of each region; those outside of the map are 0."""
    high, wide = int(a["crop_height"]), int(a["crop_width"])
    batch, channels = maps.shape[:2]
    count = regions.shape[1]
    y1, x1, y2, x2 = regions.reshape(batch, count, 4).parts(-1, 4)
    y, x = _samples(y1, y2, high), _samples(x1, x2, wide)
    whole = (batch, count, high, wide)
    rows, columns = y.reshape(batch, count, high, 1), x.reshape(batch, count, 1, wide)
    places = [t.expand(*whole).reshape(*whole, 1) for t in (columns, rows)]
    grid = (joined(places, 4) * 2.0 - 1.0).reshape(batch, count * high, wide, 2)
    found = maps.onnx("GridSample", grid, mode="linear", padding_mode="border", align_corners=1)
    found = found.reshape(batch, channels, count, high, wide).transpose(0, 2, 1, 3, 4)
    inside = [(t >= 0.0) & (t <= 1.0) for t in (rows, columns)]
    mask = (inside[0] & inside[1]).reshape(batch, count, 1, high, wide)
    return mask.where(found, 0.0)


def _samples(low: Tensor, high: Tensor, count: int) -> Tensor:
    """Return places from ``low`` to ``high``, the middle for one."""
    steps = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
    return low + (high - low) * low.constant(steps)


def _pyramid_roi_align(a: Attributes, regions: Tensor, *maps: Tensor) -> Tensor:
    """Sample each region from the map that fits its size (Lin et al., FPN, equation 1)."""
    batch, count, _ = regions.shape
    mode = int(a["roi_coords_transform"])
    if mode not in _HALF_PIXEL or a["legacy"]:
        raise GraphError(
            f"PyramidROIAlign_TRT with roi_coords_transform {mode} is not supported",
            hint="use 1 or 2, and legacy 0",
        )
    image_height, image_width = pair(a["image_size"])
    corners = _absolute(a, regions, image_height, image_width)
    size = corners.part(-1, 2, 2) - corners.part(-1, 0, 2)
    if a["roi_coords_plusone"]:
        size = size + 1.0
    area = size.part(-1, 0, 1) * size.part(-1, 1, 1)
    items = positions(regions, batch).reshape(batch, 1).expand(batch, count)
    flat: list[Tensor] = [items.reshape(batch * count), corners.reshape(batch * count, 4)]
    found = _aligned(a, maps[0], flat[1], flat[0], (image_height, image_width))
    for level, features in enumerate(maps[1:], 1):
        # The third map is for regions of at least fpn_scale squared, each next for four times that.
        least = (float(a["fpn_scale"]) * 2.0 ** (level - 2)) ** 2
        chosen = (area >= least).reshape(batch * count, 1, 1, 1)
        sampled = _aligned(a, features, flat[1], flat[0], (image_height, image_width))
        found = chosen.where(sampled, found)
    pooled = int(a["pooled_size"])
    return found.reshape(batch, count, maps[0].shape[1], pooled, pooled)


def _absolute(a: Attributes, regions: Tensor, height: int, width: int) -> Tensor:
    """Return (x1, y1, x2, y2) in pixels of the image."""
    found = regions
    if a["roi_coords_swap"]:
        y1, x1, y2, x2 = regions.parts(-1, 4)
        found = joined([x1, y1, x2, y2], 2)
    if not a["roi_coords_absolute"]:
        found = found * found.constant([width, height, width, height])
    return found


def _aligned(
    a: Attributes, features: Tensor, corners: Tensor, items: Tensor, image: tuple[int, int]
) -> Tensor:
    height, width = known(features, 2, 3)
    scale = [width / image[1], height / image[0]]
    pooled = int(a["pooled_size"])
    return features.onnx(
        "RoiAlign",
        corners * corners.constant([*scale, *scale]),
        items,
        mode="avg",
        coordinate_transformation_mode=_HALF_PIXEL[int(a["roi_coords_transform"])],
        output_height=pooled,
        output_width=pooled,
        sampling_ratio=int(a["sampling_ratio"]),
        spatial_scale=1.0,
    )


def _deformable_attention(
    a: Attributes, value: Tensor, shapes: Tensor, starts: Tensor, places: Tensor, weights: Tensor
) -> Tensor:
    """Deformable DETR: sums of samples from maps of several sizes, weighted for each head."""
    batch, _, heads, depth = value.shape
    levels, points = known(places, 3, 4)
    queries = places.shape[1]
    sizes = value.e.required(shapes.value, "the shapes of the feature maps")
    begins = value.e.required(starts.value, "the begins of the feature maps")
    total = None
    for level in range(levels):
        height, width = (int(n) for n in sizes[level])
        part = value.part(1, int(begins[level]), height * width)
        features = part.transpose(0, 2, 3, 1).reshape(batch * heads, depth, height, width)
        own = places.part(3, level, 1).transpose(0, 2, 1, 3, 4, 5)
        grid = own.reshape(batch * heads, queries, points, 2) * 2.0 - 1.0
        sampled = features.onnx(
            "GridSample", grid, mode="linear", padding_mode="zeros", align_corners=0
        )
        share = weights.part(3, level, 1).transpose(0, 2, 1, 3, 4)
        weighted = sampled * share.reshape(batch * heads, 1, queries, points)
        sum = weighted.onnx("ReduceSum", np.array([3]), keepdims=0)
        total = sum if total is None else total + sum
    assert total is not None
    return total.reshape(batch, heads, depth, queries).transpose(0, 3, 1, 2)


def _pillar_scatter(a: Attributes, voxels: Tensor, coordinates: Tensor, counts: Tensor) -> Tensor:
    """Features of pillars at their places in a map; pillars beyond the count are left out."""
    batch, most, channels = voxels.shape
    height, width = (int(n) for n in numbers(a["dense_shape"]))
    cells = height * width
    y, x = (coordinates.part(2, i, 1).cast(DType.I64).reshape(batch, most) for i in (2, 3))
    number = positions(voxels, most).reshape(1, most)
    valid = counts.cast(DType.I64).reshape(batch, 1) > number
    cell = valid.where(y * width + x, cells)  # one cell more takes what does not count
    items = positions(voxels, batch).reshape(batch, 1).expand(batch, most)
    index = joined([t.reshape(batch, most, 1) for t in (items, cell)], 2)
    empty = voxels.filled(0.0, batch, cells + 1, channels)
    dense = empty.onnx("ScatterND", index, voxels).part(1, 0, cells)
    return dense.transpose(0, 2, 1).reshape(batch, channels, height, width)


DEFINITIONS = (
    Definition(
        "ROIAlign_TRT",
        {
            "coordinate_transformation_mode": 1,
            "mode": 1,
            "output_height": 1,
            "output_width": 1,
            "sampling_ratio": 0,
            "spatial_scale": 1.0,
        },
        written(_roi_align),
        versions=("1", "2"),
    ),
    *(
        Definition(
            name, {"crop_width": 1, "crop_height": 1}, composed(_crop_and_resize), operands=(2,)
        )
        for name in ("CropAndResize", "CropAndResizeDynamic")
    ),
    Definition(
        "PyramidROIAlign_TRT",
        {
            "fpn_scale": 224,
            "pooled_size": 7,
            "image_size": [1024, 1024],
            "roi_coords_absolute": 1,
            "roi_coords_swap": 0,
            "roi_coords_plusone": 0,
            "roi_coords_transform": 2,
            "sampling_ratio": 0,
            "legacy": 0,
        },
        composed(_pyramid_roi_align),
        operands=(5,),
    ),
    Definition(
        "MultiscaleDeformableAttnPlugin_TRT",
        {},
        composed(_deformable_attention),
        versions=("1", "2"),
        operands=(5,),
    ),
    Definition(
        "PillarScatterPlugin", {"dense_shape": []}, composed(_pillar_scatter), operands=(3,)
    ),
)
