"""Ten steps of the debug recipe have the losses that were committed: a change of any part of training shows here.

``python -m tests.training.test_golden_losses`` writes the list anew, after a change that is meant.
"""

import json
import tempfile
from pathlib import Path

import pytest
import torch

from seresnet.recipes import recipe
from seresnet.training.train import train
from seresnet.training.trainer import Trainer
from tests.made_images import color_folder

GOLDEN = Path(__file__).parents[1] / "golden" / "debug_losses.json"


def losses(folder: Path) -> list[float]:
    """Return the mean loss of each of the first ten steps, in float32 on one thread."""
    data, found = color_folder(folder / "data", per_class=32, size=32), []
    step = Trainer.step

    def recorded(self, group):
        before, images = self.state.loss_sum, self.state.images
        result = step(self, group)
        found.append((self.state.loss_sum - before) / (self.state.images - images))
        return result

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "step", recorded)
            config = recipe("debug").updated({"precision": "float32", "epochs": 3, "workers": 0})
            train(config, data, folder / "run", device="cpu")
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    return found[:10]


def test_ten_steps_of_the_debug_recipe(tmp_path):
    golden = json.loads(GOLDEN.read_text())
    assert len(golden) == 10
    assert losses(tmp_path) == pytest.approx(golden, abs=1e-6)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        GOLDEN.write_text(json.dumps(losses(Path(made)), indent=1) + "\n")
