"""Networks by torchvision's and transformers' definitions, with seeded random weights, as ONNX.

Needs torch, torchvision and transformers; used by ``benchmarks.cuda_bench`` only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lamina.cli import torch_export


class _Tensor(nn.Module):
    """Gives the one tensor that a benchmark looks at."""

    def __init__(self, module: nn.Module, pick: Callable[[Any], Any]) -> None:
        super().__init__()
        self.module, self.pick = module, pick

    def forward(self, x: Any) -> Any:
        return self.pick(self.module(x))


def _vision(name: str, **options: Any) -> nn.Module:
    import torchvision

    return torchvision.models.get_model(name, weights=None, **options)


def _bert(layers: int, width: int, heads: int) -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        attn_implementation="sdpa",
    )
    model = BertModel(config, add_pooling_layer=False)
    # All tokens count, so there is no mask.  transformers leaves it away by itself, except where it
    # is traced or captured, as it is here.
    model._create_attention_masks = lambda **_: (None, None)
    return _Tensor(model, lambda y: y.last_hidden_state)


class _Block(nn.Sequential):
    """Two 3x3 convolutions with batch norm and ReLU, as in U-Net."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__(
            nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU(),
            nn.Conv2d(filters, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU(),
        )  # fmt: skip


class UNet(nn.Module):
    """A U-Net (O. Ronneberger et al., 2015) of four levels, for 256x256 images."""

    def __init__(self) -> None:
        super().__init__()
        widths = (64, 128, 256, 512, 1024)
        self.down = nn.ModuleList(_Block(a, b) for a, b in zip((3, *widths), widths, strict=False))
        pairs = [(widths[i], widths[i - 1]) for i in range(4, 0, -1)]
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.merge = nn.ModuleList(_Block(a, b) for a, b in pairs)
        self.head = nn.Conv2d(64, 2, 1)

    def forward(self, x: Any) -> Any:
        kept = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else nn.functional.max_pool2d(x, 2))
            kept.append(x)
        for i, (up, merge) in enumerate(zip(self.up, self.merge, strict=True)):
            x = merge(torch.cat([kept[3 - i], up(x)], 1))
        return self.head(x)


class _Conv(nn.Sequential):
    def __init__(self, channels: int, filters: int, size: int = 1, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels, filters, size, stride, size // 2, bias=False),
            nn.BatchNorm2d(filters),
            nn.SiLU(),
        )


class _Csp(nn.Module):
    """A cross-stage partial block with ``count`` residual bottlenecks."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        half = channels // 2
        self.first, self.second = _Conv(channels, half), _Conv(channels, half)
        self.inner = nn.ModuleList(
            nn.Sequential(_Conv(half, half), _Conv(half, half, 3)) for _ in range(count)
        )
        self.last = _Conv(channels, channels)

    def forward(self, x: Any) -> Any:
        y = self.first(x)
        for block in self.inner:
            y = y + block(y)
        return self.last(torch.cat([y, self.second(x)], 1))


class Detector(nn.Module):
    """A one-stage detector in the manner of YOLO: a CSP backbone, a neck, three heads; 640x640."""

    def __init__(self, width: int = 32, outputs: int = 255) -> None:
        super().__init__()
        w = [width, 2 * width, 4 * width, 8 * width, 16 * width]
        self.stem = _Conv(3, w[0], 6, 2)
        self.stem[0].padding = (2, 2)
        self.stages = nn.ModuleList(
            nn.Sequential(_Conv(w[i], w[i + 1], 3, 2), _Csp(w[i + 1], n))
            for i, n in enumerate((1, 2, 3, 1))
        )
        self.lateral = nn.ModuleList([_Conv(w[4], w[3]), _Conv(w[3], w[2])])
        self.merge = nn.ModuleList([_Conv(2 * w[3], w[3]), _Conv(2 * w[2], w[2])])
        self.neck = nn.ModuleList([_Csp(w[3], 1), _Csp(w[2], 1)])
        self.heads = nn.ModuleList(nn.Conv2d(c, outputs, 1) for c in (w[2], w[3], w[4]))

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        outputs = [self.heads[2](features[3])]
        top = features[3]
        for i in range(2):
            lower = nn.functional.interpolate(self.lateral[i](top), scale_factor=2, mode="nearest")
            top = self.neck[i](self.merge[i](torch.cat([lower, features[2 - i]], 1)))
            outputs.append(self.heads[1 - i](top))
        return torch.cat([y.flatten(2) for y in outputs], 2)


def _image(size: int) -> Callable[[int], Any]:
    return lambda batch: torch.randn(batch, 3, size, size)


def _tokens(length: int) -> Callable[[int], Any]:
    return lambda batch: torch.randint(0, 30000, (batch, length))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Any]]] = {
    "resnet50": (lambda: _vision("resnet50"), _image(224)),
    "mobilenet_v2": (lambda: _vision("mobilenet_v2"), _image(224)),
    "inception_v3": (
        lambda: _vision("inception_v3", aux_logits=False, init_weights=False),
        _image(299),
    ),
    "googlenet": (
        lambda: _vision("googlenet", aux_logits=False, init_weights=False),
        _image(224),
    ),
    "vit_b16": (lambda: _vision("vit_b_16"), _image(224)),
    "bert_base": (lambda: _bert(12, 768, 12), _tokens(128)),
    "bert_large": (lambda: _bert(24, 1024, 16), _tokens(384)),
    "unet": (UNet, _image(256)),
    "detector": (Detector, _image(640)),
}


def make(name: str, batch: int) -> tuple[nn.Module, Any]:
    """Return a network in f32 on the CPU, in evaluation mode, and an input."""
    torch.manual_seed(0)
    build, data = MODELS[name]
    module = build().eval()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                # Fresh statistics would leave most of a deep network's results constant.
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
                part.weight.uniform_(0.5, 1.0)
            elif isinstance(part, nn.Linear) and not bool(part.weight.any()):
                part.weight.normal_(0, 0.02)  # a head of zeros would hide every error
    return module, data(batch)


def export(module: nn.Module, x: Any) -> bytes:
    """Return a network as an ONNX file of fixed shapes with the input ``x`` and output ``y``."""
    return torch_export.export(torch, module, {"x": x})
