"""``precision=auto`` takes bfloat16 only where the hardware computes in it."""

import pytest
import torch

from seresnet.training.device import has_native_bfloat16


@pytest.mark.parametrize(("capability", "native"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_emulated_bfloat16_does_not_count(capability, native, monkeypatch):
    """V100 is 7.0, T4 7.5, A100 8.0, H100 9.0: torch counts emulation unless asked not to."""
    properties = type("Properties", (), {"major": capability[0], "minor": capability[1]})()
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)  # the emulation works
    assert torch.cuda.is_bf16_supported()
    assert has_native_bfloat16(cpu=False) == native
