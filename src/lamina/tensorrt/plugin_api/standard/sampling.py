"""Standard plugins that sample feature maps at computed places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    batch, count, *_ = regions.shape
    y1, x1, y2, x2 = regions.reshape(batch, count, 4).parts(-1, 4)
    y, x = _spread(y1, y2, high), _spread(x1, x2, wide)
    found = _sampled(maps, y, x)
    inside = [(t >= 0.0) & (t <= 1.0) for t in (y, x)]
    rows, columns = (
        inside[0].reshape(batch, count, high, 1),
        inside[1].reshape(batch, count, 1, wide),
    )
    return (rows & columns).reshape(batch, count, 1, high, wide).where(found, 0.0)


def _spread(low: Tensor, high: Tensor, count: int) -> Tensor:
    """Return places from ``low`` to ``high``, the middle for one."""
    steps = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
    return low + (high - low) * low.constant(steps)


def _sampled(features: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Return [b, r, c, h, w]: samples of maps [b, c, ...] at each pair of places.

    ``y`` is [b, r, h] and ``x`` [b, r, w]; 0 is the first element of an axis, 1 the last, and what
    is outside counts as the border.
    """
    batch, channels = features.shape[:2]
    count, (high, wide) = y.shape[1], (y.shape[2], x.shape[2])
    whole = (batch, count, high, wide)
    places = (x.reshape(batch, count, 1, wide), y.reshape(batch, count, high, 1))
    grid = joined([t.expand(*whole).reshape(*whole, 1) for t in places], 4) * 2.0 - 1.0
    found = features.onnx(
        "GridSample",
        grid.reshape(batch, count * high, wide, 2),
        mode="linear",
        padding_mode="border",
        align_corners=1,
    )
    return found.reshape(batch, channels, count, high, wide).transpose(0, 2, 1, 3, 4)


@dataclass(frozen=True)
class _Bins:
    """How a region is cut: bins along an axis, samples in each, and where in it they are.

    With ``corners`` the first and last sample are at the ends of the region.
    """

    pooled: int
    samples: int
    offset: float = 0.5
    corners: bool = False

    def places(self, low: Tensor, high: Tensor, size: int) -> Tensor:
        """Return places between ends [b, r, 1] in a map of a size, for :func:`_sampled`."""
        divisor = max(self.pooled - 1, 1) if self.corners else self.pooled
        bins, within = np.arange(self.pooled)[:, None], np.arange(self.samples)
        steps = (bins + (within + self.offset) / self.samples).reshape(-1) / divisor
        found = (low + (high - low) * low.constant(steps)).clip(0.0, size - 1)
        return found / float(max(size - 1, 1))

    def mean(self, found: Tensor) -> Tensor:
        """Return the mean of the samples of each bin."""
        *front, _, _ = found.shape
        cut = found.reshape(*front, self.pooled, self.samples, self.pooled, self.samples)
        axes = np.array([len(front) + 1, len(front) + 3])
        return cut.onnx("ReduceMean", axes, keepdims=0) if self.samples > 1 else found


def _by_level(levels: Sequence[Tensor], area: Tensor, first: float) -> Tensor:
    """Return for each region the samples [b, r, ...] of the map that its area [b, r, 1] asks for.

    The second map is for areas above ``first``, each next for those above four times that
    (Lin et al., Feature Pyramid Networks, equation 1).
    """
    found, limit = levels[0], first
    for sampled in levels[1:]:
        chosen = (area > limit).reshape(*area.shape[:2], 1, 1, 1)
        found, limit = chosen.where(sampled, found), limit * 4
    return found


def _pyramid_roi_align(a: Attributes, regions: Tensor, *maps: Tensor) -> Tensor:
    image = pair(a["image_size"])
    low, high = _ends(a, regions, image)
    extent = high - low
    if a["roi_coords_plusone"]:
        extent = extent + extent.constant([1 / image[1], 1 / image[0]])
    area = extent.part(-1, 0, 1) * extent.part(-1, 1, 1)
    scale, legacy = float(a["fpn_scale"]), bool(a["legacy"])
    levels = [_pooled(a, features, low, high) for features in maps]
    first = (158.0 if legacy else scale) ** 2 / 4 / (image[0] * image[1])
    return _by_level(levels, area, first)


def _ends(a: Attributes, regions: Tensor, image: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return (x, y) of the ends of regions, as parts of the image."""
    legacy = bool(a["legacy"])
    swapped = legacy or a["roi_coords_swap"]
    columns = regions.parts(-1, 4)
    order = (1, 0, 3, 2) if swapped else (0, 1, 2, 3)
    one, other = (joined([columns[order[k]], columns[order[k + 1]]], 2) for k in (0, 2))
    if a["roi_coords_absolute"] and not legacy:
        size = np.array([image[1], image[0]])
        one, other = (t / t.constant(size) for t in (one, other))
    low, high = one.onnx("Min", other), one.onnx("Max", other)
    return low.clip(0.0, 1.0), high.clip(0.0, 1.0)


def _pooled(a: Attributes, features: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return [b, r, c, pooled, pooled] of one map, for ends as parts of the image."""
    mode = -1 if a["legacy"] else int(a["roi_coords_transform"])
    samples = 1 if a["legacy"] else int(a["sampling_ratio"])
    pooled = int(a["pooled_size"])
    if mode not in (-1, 0, 1, 2) or (samples < 1 and mode < 1):
        raise GraphError(
            f"PyramidROIAlign_TRT with roi_coords_transform {mode} and sampling_ratio {samples} "
            "is not supported",
            hint="use -1, 0, 1 or 2; the first two with a sampling_ratio of at least 1",
        )
    if samples < 1:
        return _adaptive(features, low, high, pooled, shift=0.5 if mode == 1 else 0.0)
    height, width = known(features, 2, 3)
    bins = _Bins(pooled, samples, 0.5 if mode > 0 else 0.0, corners=mode == -1)
    places = []
    for axis, size in ((1, height), (0, width)):
        ends = (t.part(-1, axis, 1) * float(size - 1 if mode == -1 else size) for t in (low, high))
        moved = [t - 0.5 if mode == 2 else t for t in ends]
        places.append(bins.places(moved[0], moved[1], size))
    return bins.mean(_sampled(features, places[0], places[1]))


def _adaptive(features: Tensor, low: Tensor, high: Tensor, pooled: int, shift: float) -> Tensor:
    """Return samples whose number depends on the size of the region."""
    batch, count, _ = low.shape
    channels, (height, width) = features.shape[1], known(features, 2, 3)
    size = np.array([width, height, width, height])
    corners = joined([low, high], 2)
    items = positions(low, batch).reshape(batch, 1).expand(batch, count)
    found = features.onnx(
        "RoiAlign",
        (corners * corners.constant(size) + shift).reshape(batch * count, 4),
        items.reshape(batch * count),
        mode="avg",
        coordinate_transformation_mode="half_pixel",
        output_height=pooled,
        output_width=pooled,
        sampling_ratio=0,
        spatial_scale=1.0,
    )
    return found.reshape(batch, count, channels, pooled, pooled)


def _multilevel_crop(a: Attributes, regions: Tensor, *maps: Tensor) -> Tensor:
    """Sample one place of each bin; regions (y1, x1, y2, x2) that are none give 0."""
    _, height, width = (int(n) for n in numbers(a["image_size"]))
    y1, x1, y2, x2 = regions.parts(-1, 4)
    bins = _Bins(int(a["pooled_size"]), 1)
    levels = []
    for number, features in enumerate(maps):
        step = float(1 << (number + 2))
        rows, columns = known(features, 2, 3)
        y = bins.places(y1 / step, y2 / step, rows)
        levels.append(_sampled(features, y, bins.places(x1 / step, x2 / step, columns)))
    found = _by_level(levels, (y2 - y1) * (x2 - x1), 224.0**2 / 4)
    valid = (y2 > y1) & (x2 > x1) & (y1 >= 0.0) & (x1 >= 0.0)
    valid = valid & (y2 <= float(height)) & (x2 <= float(width))
    return valid.reshape(*valid.shape[:2], 1, 1, 1).where(found, 0.0)


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
        "MultilevelCropAndResize_TRT",
        {"pooled_size": 7, "image_size": [3, 832, 1344]},
        composed(_multilevel_crop),
        operands=(6,),
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
