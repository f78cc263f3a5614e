"""Ablated gates: against the network run image by image with these gates; the command, and what it writes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import seresnet
from seresnet.errors import ConfigError
from seresnet.explanation.ablation import ablate, chosen_blocks, constant_gates
from seresnet.explanation.excitations import study
from seresnet.explanation.gates import gated_blocks
from tests.cli.terminal import here
from tests.networks import seresnet20
from tests.photographs import pieces

BLOCKS = [f"layer{stage}.{i}" for stage in (1, 2, 3) for i in range(3)]


def test_each_block_is_ablated_alone_and_the_loss_is_counted_image_by_image():
    network = seresnet.create_model("seresnet20.cifar10", pretrained=True).eval()
    for _, excitation in gated_blocks(network).values():
        excitation.fc2.weight.data *= 4  # gates that depend on the image
    x = torch.from_numpy(np.stack([network.preprocess.array(image) for image in list(pieces())[:40]]))
    with torch.no_grad():
        plain = network(x).argmax(1)
    groups = np.arange(40) % 4
    kinds = [7, 3, 2, 5]  # the network's class of each group
    for i in range(0, 40, 3):  # a third are right
        groups[i] = i // 3 % 4
        kinds[i // 3 % 4] = int(plain[i])
    batches = [(x[i : i + 16].numpy(), groups[i : i + 16]) for i in range(0, 40, 16)]
    found = study(network, batches, ["a", "b", "c", "d"])
    result = ablate(network, batches, kinds, found)
    targets = np.array(kinds)[groups]
    assert result.images == 40 and result.accuracy == pytest.approx((plain.numpy() == targets).mean())
    assert [block.block for block in result.blocks] == BLOCKS == list(gated_blocks(network))
    for block in result.blocks:
        gate = torch.from_numpy(found.mean_gates()[block.block]).float()
        with torch.no_grad(), constant_gates(network, {block.block: gate}):
            ablated = torch.cat([network(image[None]).argmax(1) for image in x])
        lost = (plain.numpy() == targets).astype(float) - (ablated.numpy() == targets)
        assert block.changed == pytest.approx(float((ablated != plain).float().mean()))
        assert block.loss == pytest.approx(lost.mean()) and block.accuracy == pytest.approx(
            result.accuracy - block.loss
        )
        assert block.standard_error == pytest.approx(lost.std(ddof=1) / np.sqrt(40))
    assert any(block.changed > 0 for block in result.blocks)
    assert not any(m._forward_hooks for m in network.modules())


def test_blocks_are_named_as_they_are_and_in_their_order():
    network = seresnet20()
    assert chosen_blocks(network, "layer3.1, layer1.2,layer3.1") == ["layer1.2", "layer3.1"]
    with pytest.raises(ConfigError, match=r"layer1.7: no such block with an excitation; there are layer1.0, "):
        chosen_blocks(network, "layer1.1,layer1.7")
    with pytest.raises(ConfigError, match="no blocks are given"):
        chosen_blocks(network, ",")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for i, image in enumerate(list(pieces())[:16]):
        folder = root / ("cat", "dog")[i % 2]
        folder.mkdir(exist_ok=True)
        image.save(folder / f"{i}.png")
    return root


def test_the_command_ablates_folds_saves_and_measures(data, tmp_path, monkeypatch):
    monkeypatch.setattr("seresnet.evaluation.folded.SLOT_SECONDS", 0.01)
    out, saved = tmp_path / "out", tmp_path / "folded"
    done = here("excitations", data, "--out", out, "--ablate", "--fold", "layer3.2,layer1.0", "--save", saved)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert "16 images, top-1 accuracy" in text and "folded: layer1.0, layer3.2; " in text and "batch of 16: " in text
    facts = json.loads((out / "excitations.json").read_text())
    rows = list(csv.DictReader((out / "ablation.csv").open()))
    assert [row["block"] for row in rows] == BLOCKS and len(facts["ablation"]["blocks"]) == 9
    before, after = (seresnet.evaluate(name, data).metrics.top1 for name in ("seresnet20.cifar10", saved))
    assert facts["folded"]["comparison"]["accuracy"] == [before, after] and facts["ablation"]["accuracy"] == before
    assert (out / "ablation.png").exists() and "Ablation" in (out / "index.html").read_text()
    folded = seresnet.create_model(saved, pretrained=True).eval()
    network = seresnet.create_model("seresnet20.cifar10", pretrained=True).eval()
    gates = np.load(out / "gates.npz")
    means = {name: torch.from_numpy(gates[f"{name}.mean"].mean(0)) for name in ("layer1.0", "layer3.2")}  # 8 each
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad(), constant_gates(network, means):
        torch.testing.assert_close(folded(x), network(x), rtol=1e-5, atol=1e-5)


def test_what_does_not_go_together_is_refused_before_anything_is_written(data, tmp_path):
    for flags, message in (
        (["--fold", "layer1.0"], b"--fold BLOCKS and --save DIR go together"),
        (["--fold", "layer7.0", "--save", tmp_path / "s"], b"layer7.0: no such block"),
        (["--fold", "layer1.0", "--save", data], b"is not empty"),
    ):
        done = here("excitations", data, "--out", tmp_path / "out", *flags)
        assert done.returncode == 2 and message in done.stderr and not (tmp_path / "out").exists()
    done = here("excitations", data / "cat", "--out", tmp_path / "out", "--ablate")
    assert done.returncode == 2 and b"--ablate measures accuracy" in done.stderr
