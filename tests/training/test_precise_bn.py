"""Statistics of batch norm for the evaluated weights: torch's `update_bn`, and what they are worth."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.optim.swa_utils import update_bn

from seresnet.data.augment import BatchAugment, TrainCrop
from seresnet.data.folder import image_folder
from seresnet.data.loader import Loader
from seresnet.data.preprocess import Preprocess
from seresnet.recipes import recipe
from seresnet.training import precise_bn
from seresnet.training.config import TrainConfig
from seresnet.training.device import create_accelerator
from seresnet.training.precise_bn import PreciseBatchNorm
from seresnet.training.train import train
from seresnet.weights.create import create_model
from tests.made_images import color_folder


@pytest.fixture
def digits(tmp_path) -> Path:
    """300 of scikit-learn's handwritten digits in class folders, 32x32 pixels."""
    found = load_digits()
    for label in range(10):
        (tmp_path / "digits" / str(label)).mkdir(parents=True)
        for index in np.flatnonzero(found.target == label)[:30]:
            image = Image.fromarray((found.images[index] * 15.9).astype(np.uint8)).resize((32, 32))
            image.save(tmp_path / "digits" / str(label) / f"{index}.png")
    return tmp_path / "digits"


def test_the_statistics_are_those_of_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(precise_bn, "BATCH_SIZE", 8)
    images = image_folder(color_folder(tmp_path / "data", per_class=8))
    model = create_model("seresnet20", num_classes=3, drop_path_rate=0.5, drop_rate=0.5)
    model.preprocess = Preprocess((3, 16, 16))
    data = Loader(images.samples, TrainCrop("resized", model.preprocess, (0.3, 0.5)), 4, 0)
    augment = BatchAugment(model.preprocess, pad=2, hflip=0.5, rotation=10.0, random_erasing_prob=0.5)
    precise = PreciseBatchNorm(data, model, augment, create_accelerator(TrainConfig(precision="float32"), "cpu"))
    reference = create_model("seresnet20", num_classes=3)
    reference.load_state_dict(model.state_dict())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    precise.update(model)
    batches = [augment(torch.from_numpy(batch.pixels)) for batch in precise.data.epoch(0)]
    assert [len(batch) for batch in batches] == [8, 8, 8]
    update_bn(batches, reference)  # type: ignore[arg-type]
    expected = reference.state_dict()
    for key, value in model.state_dict().items():
        if "running" in key:
            assert torch.allclose(value, expected[key], rtol=1e-4, atol=1e-6), key
        else:
            assert torch.equal(value, before[key]), key
    assert not any(module.training for module in model.modules())
    assert {m.momentum for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.1}
    again = {key: value.clone() for key, value in model.state_dict().items()}
    precise.update(model)  # from other statistics to the same
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())


def test_the_first_epoch_is_not_far_below_the_linear_probe(digits, tmp_path):
    """Digits are far from the photographs that the pretrained statistics are of: without, 62 %."""
    settings = recipe("finetune").updated({"epochs": 1, "hflip": 0.0, "val_fraction": 0.2, "precision": "float32"})
    result = train(settings, digits, tmp_path / "run", device="cpu")
    assert result.last_score > 0.8
    assert result.best_score >= result.last_score
