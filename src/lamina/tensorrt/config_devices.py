"""Where layers run."""

from __future__ import annotations

from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import DeviceType
from lamina.tensorrt.network.layer import ILayer


class DeviceChoices:
    """Device types of IBuilderConfig; layers meant for a DLA run as all others do."""

    _default_device: str
    _devices: dict[int, tuple[ILayer, str]]

    def _start_devices(self) -> None:
        self._default_device = "GPU"
        self._devices = {}
        self._dla_core = -1

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
