"""What a process says of the device that it computes on."""

import json
import subprocess
import sys
from typing import Any

import pytest

from dihedral.data_plane.device import array_module, describe, gpu_available, to_host


def test_the_array_module_computes_and_says_why_it_is_not_a_gpu() -> None:
    xp, name, reason = array_module()
    assert to_host(xp.arange(3) + 1).tolist() == [1, 2, 3]
    assert name == xp.__name__
    assert bool(reason) == (name == "numpy")


@pytest.mark.gpu
def test_a_gpu_is_used_and_named() -> None:
    assert gpu_available() == (True, "")
    assert describe().gpus[0].memory_mib > 0


def test_the_device_is_printed_as_json() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "dihedral.data_plane.device"], capture_output=True, text=True, check=True
    )
    device: dict[str, Any] = json.loads(printed.stdout)
    assert set(device) == {"name", "arrayModule", "reason", "cpus", "gpus"}
    assert (device["gpus"] == []) == (device["arrayModule"] == "numpy")
