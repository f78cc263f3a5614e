"""Which device a name means, and what is refused."""

import pytest
import torch

from seresnet.errors import ConfigError
from seresnet.training.device import runs_on_cpu


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_the_cpu_by_its_names(name):
    assert runs_on_cpu(name)


@pytest.mark.parametrize(
    ("name", "gpus", "message"),
    [
        ("cuda", 0, "torch finds no GPU on this machine; leave --device out"),
        ("cuda:1", 0, "torch finds no GPU"),
        ("cuda:2", 2, "there are 2 GPUs here, from cuda:0 to cuda:1"),
        ("mps", 0, "training runs on cpu or cuda"),
        ("gpu", 0, "training runs on cpu or cuda"),
    ],
)
def test_a_device_that_is_not_there_is_refused(monkeypatch, name, gpus, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ConfigError, match=message):
        runs_on_cpu(name)


def test_without_a_name_it_is_the_gpu_if_there_is_one(monkeypatch):
    for available in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda a=available: a)
        assert runs_on_cpu(None) != available
