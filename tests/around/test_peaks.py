"""What devices can do: makers' figures by kind, and a measurement where there are none."""

import time

import pytest

from qr_jax import config
from qr_jax.parallel import peaks


@pytest.mark.parametrize(
    "kind, bfloat16, bytes_a_s",
    [
        ("TPU v5 lite", 197e12, 819e9),
        ("TPU v5p", 459e12, 2765e9),
        ("TPU v6 lite", 918e12, 1600e9),
        ("TPU7x", 1153.5e12, 3690e9),  # of one of a chip's two devices
        ("NVIDIA H200", 989e12, 4800e9),
        ("NVIDIA H100 80GB HBM3", 989e12, 3350e9),
        ("NVIDIA H100 PCIe", 756e12, 2000e9),
        ("NVIDIA A100-SXM4-80GB", 312e12, 2039e9),
        ("NVIDIA A100-SXM4-40GB", 312e12, 1555e9),
        ("NVIDIA L4", 121e12, 300e9),
        ("NVIDIA L40S", 362e12, 864e9),
        ("NVIDIA GeForce RTX 4090", 165e12, 1008e9),
    ],
)
def test_known_kinds_have_their_makers_figures(kind, bfloat16, bytes_a_s):
    assert peaks.known(kind, "bfloat16") == peaks.Peak(bfloat16, bytes_a_s, measured=False)


def test_float32_is_half_on_gpu_and_the_same_on_tpu():
    assert peaks.known("NVIDIA A100", "float32") == peaks.Peak(156e12, 1555e9, measured=False)
    assert peaks.known("TPU v5e", "float32") == peaks.known("TPU v5e", "bfloat16")


def test_an_unknown_device_is_measured_once_and_quickly():
    assert peaks.known("cpu", "float32") is None
    start = time.monotonic()
    found = peaks.of("float32")
    assert found.measured and 1e9 < found.flops_a_s < 1e14 and 1e8 < found.bytes_a_s < 1e13
    assert time.monotonic() - start < 10.0  # about 0.6 s on an idle machine
    assert peaks.of("float32") is found


def test_emulated_devices_are_one_machine():
    assert peaks.devices(config.Mesh(data=4, fsdp=2, devices=8)) == 1
