"""Devices that are decoded when they are attached, by the suite of all devices."""

import pytest

from lading.testing.devices import DevicesSuite
from lading.testing.memory.devices import MemoryDevices


@pytest.fixture
def make():
    return MemoryDevices


class TestMemoryDevices(DevicesSuite):
    pass
