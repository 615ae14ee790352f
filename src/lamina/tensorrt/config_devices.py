"""Where layers run."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.errors import ConfigError
from lamina.ir.graph import Graph
from lamina.passes.named_nodes import node_names
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import DeviceType
from lamina.tensorrt.error_reporting import Reporter
from lamina.tensorrt.network.layer import ILayer


class DeviceChoices:
    """Device types of IBuilderConfig.

    ``GPU`` is the device that engines are built for here, which may be a CPU.  There is no DLA:
    layers that are meant for one are refused, or with the flag GPU_FALLBACK run as all others do.
    """

    _default_device: str
    _devices: dict[int, tuple[ILayer, str]]
    _hosted: dict[int, ILayer]

    def _start_devices(self) -> None:
        self._default_device = "GPU"
        self._devices = {}
        self._dla_core = -1
        self._hosted: dict[int, ILayer] = {}

    @property
    def default_device_type(self) -> DeviceType:
        """Device of layers that have none of their own."""
        return DeviceType.named(self._default_device)

    @default_device_type.setter
    @checked
    def default_device_type(self, value: DeviceType) -> None:
        self._default_device = value.name

    @property
    def DLA_core(self) -> int:
        """Number of the DLA that is used, -1 for none."""
        return self._dla_core

    @DLA_core.setter
    @checked
    def DLA_core(self, value: int) -> None:
        self._dla_core = value

    @checked
    def set_device_type(self, layer: ILayer, device_type: DeviceType) -> None:
        """Choose the device of a layer."""
        self._devices[layer._key] = (layer, device_type.name)

    @checked
    def get_device_type(self, layer: ILayer) -> DeviceType:
        """Return the device of a layer."""
        return DeviceType.named(self._devices.get(layer._key, (layer, self._default_device))[1])

    @checked
    def is_device_type_set(self, layer: ILayer) -> bool:
        """Whether a layer has a device of its own."""
        return layer._key in self._devices

    @checked
    def reset_device_type(self, layer: ILayer) -> None:
        """Let a layer run on the default device."""
        self._devices.pop(layer._key, None)

    @checked
    def can_run_on_DLA(self, layer: ILayer) -> bool:
        """Whether a DLA can run a layer: never, there is none."""
        return False

    @checked
    def set_layer_on_host(self, layer: ILayer, on_host: bool) -> None:
        """Let the host run a layer of an engine for a GPU; TensorRT does not have this.

        It runs through its NumPy meaning, between the kernels.  Engines for a CPU are on the host
        as a whole, and nothing changes there.
        """
        self._hosted.pop(layer._key, None)
        if on_host:
            self._hosted[layer._key] = layer

    @checked
    def is_layer_on_host(self, layer: ILayer) -> bool:
        """Whether the host is to run a layer; TensorRT does not have this."""
        return layer._key in self._hosted


def hosted_nodes(config: DeviceChoices, graph: Graph) -> tuple[str, ...]:
    """Return the source nodes of a graph that the host is to run."""
    origins = {layer._origin for layer in config._hosted.values()}
    return tuple(sorted(origins & node_names(graph)))


def check_devices(
    config: DeviceChoices, layers: Sequence[ILayer], fallback: bool, reporter: Reporter
) -> None:
    """Raise ConfigError for layers on a DLA, or with ``fallback`` warn that they are not."""
    meant = [x for x in layers if config.get_device_type(x).name == "DLA"]
    if not meant:
        return
    fact = f"layer {meant[0]._name!r} is meant for a DLA, and there is none"
    if not fallback:
        raise ConfigError(
            fact, hint="set the flag GPU_FALLBACK, or the device types of layers to GPU"
        )
    reporter.warning(f"{fact}: it and {len(meant) - 1} others run on the engine's device")
