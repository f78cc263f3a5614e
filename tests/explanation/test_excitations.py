"""The study of gates: against direct forward hooks and NumPy over all images at once; its files and its page."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import seresnet
from seresnet.data.decode import decode
from seresnet.errors import ConfigError, DataError
from seresnet.explanation.excitation_plots import PANELS, draw_gates, panels
from seresnet.explanation.excitation_report import SHOWN, write_excitations
from seresnet.explanation.excitations import MOVES, BlockGates, Excitations, study
from seresnet.models.resnet import SEResNet
from seresnet.models.variants import build
from tests.cli.terminal import here
from tests.networks import randomized, seresnet20
from tests.photographs import pieces

CLASSES = ("cat", "dog", "none", "ship")


def hooked(network: SEResNet, x: torch.Tensor) -> dict[str, np.ndarray]:
    """Return the gates (N, C) that plain forward hooks see."""
    gates, handles = {}, []
    for name, module in network.named_modules():
        if name.endswith(".se.sigmoid"):
            keep = lambda m, given, out, name=name: gates.update({name[:-11]: out[:, :, 0, 0].double().numpy()})  # noqa: E731
            handles.append(module.register_forward_hook(keep))
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    return gates


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    groups = np.array([0, 1, 3, 0, 0, 1, 3, 3, 0, 1, 0])
    return torch.randn(len(groups), 3, 32, 32, generator=torch.Generator().manual_seed(0)).numpy(), groups


@pytest.mark.parametrize("make", [seresnet20, lambda: randomized(build("legacy_seresnet18")).eval()])
@pytest.mark.parametrize("size", [1, 4, 11])
def test_sums_over_batches_are_those_of_all_gates_that_hooks_see(make, images, size):
    network, (x, groups) = make(), images
    found = study(network, ((x[i : i + size], groups[i : i + size]) for i in range(0, len(x), size)), CLASSES)
    gates = hooked(network, torch.from_numpy(x))
    assert (
        [b.name for b in found.blocks] == list(gates) and found.counts.tolist() == [5, 3, 0, 3] and found.images == 11
    )
    for block in found.blocks:
        all_gates = gates[block.name]
        np.testing.assert_allclose(block.overall, all_gates.mean(0), atol=1e-6)
        np.testing.assert_allclose(block.lowest, all_gates.min(0), atol=1e-6)
        np.testing.assert_allclose(block.highest, all_gates.max(0), atol=1e-6)
        assert block.moving == (np.ptp(all_gates, axis=0) > MOVES).sum()
        assert np.isnan(block.mean[2]).all() and np.isnan(block.from_overall()[2])
        means = np.stack([all_gates[groups == i].mean(0) for i in (0, 1, 3)])
        within = np.stack([all_gates[groups == i].var(0) for i in (0, 1, 3)])
        np.testing.assert_allclose(block.mean[[0, 1, 3]], means, atol=1e-6)
        np.testing.assert_allclose(block.variance[[0, 1, 3]], within, atol=1e-7)
        distance = np.sqrt(((means[0] - means[2]) ** 2).mean())
        assert block.distances([0, 1, 3])[0, 2] == pytest.approx(distance, abs=1e-6)
        # the variance over all images is that within the classes and that between them
        total = all_gates.var(0).mean()
        assert block.within**2 + block.between**2 == pytest.approx(total, rel=1e-3, abs=1e-9)


def test_what_cannot_be_studied_is_refused(images):
    x, groups = images
    with pytest.raises(ConfigError, match="no excitation"):
        study(build("resnet20").eval(), [(x, groups)], CLASSES)
    with pytest.raises(DataError, match="none of the images can be read"):
        study(seresnet20(), [], CLASSES)


def made(classes: int, blocks: int = 3) -> Excitations:
    rng = np.random.default_rng(0)
    counts = rng.permutation(classes) + 1
    parts = []
    for i in range(blocks):
        mean = rng.random((classes, 8))
        overall = (counts / counts.sum()) @ mean
        parts.append(
            BlockGates(
                f"layer{min(4, i // 2 + 1)}.{i}",
                mean,
                mean / 9,
                overall,
                0 * overall,
                overall + 0.2,
                counts / counts.sum(),
            )
        )
    return Excitations(tuple(f"kind {i} $_{{x}}$" for i in range(classes)), counts, tuple(parts))


def test_of_many_classes_the_most_frequent_are_drawn_and_of_many_blocks_the_last_of_each_stage(tmp_path):
    many = made(classes=30, blocks=15)
    assert sorted(many.counts[many.most_frequent(SHOWN)]) == list(range(21, 31))
    names = [block.name for block in panels(many.blocks)]
    assert (
        len(names) <= PANELS
        and names[:4] == ["layer1.1", "layer2.3", "layer3.5", "layer4.6"]
        and names[-1] == "layer4.14"
    )
    figure = draw_gates(many, many.most_frequent(SHOWN))
    assert [len(axes.lines) for axes in figure.axes if axes.get_visible()] == [SHOWN] * len(names)
    page = write_excitations(many, tmp_path, "model <b>", "data").read_text()
    assert "the plots show the 10 classes with the most images" in page and "model &lt;b&gt;" in page
    assert not re.search(r'(src|href)="(?!data:)', page) and page.count("<tr><td>layer") == 15
    rows = list(csv.DictReader((tmp_path / "gates.csv").open()))
    assert len(rows) == 15 * SHOWN * 8 and {row["class"] for row in rows} == {
        many.classes[i] for i in many.most_frequent(SHOWN)
    }
    assert len((tmp_path / "classes.csv").read_text().splitlines()) == 1 + 15 * 30
    arrays = np.load(tmp_path / "gates.npz")
    np.testing.assert_array_equal(arrays["layer1.0.mean"], many.blocks[0].mean)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for i, image in enumerate(list(pieces())[:12]):
        folder = root / "test" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{i}.png")
    (root / "test" / "cat" / "broken.png").write_bytes(b"no image")
    return root


@pytest.mark.parametrize("plain", [False, True])
def test_the_command_studies_classes_and_folders_without_them(data, tmp_path, plain):
    given = data / "test" / "cat" if plain else data
    done = here("excitations", given, "--out", tmp_path / "out")
    assert done.returncode == 1 and b"broken.png" in done.stderr
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("block ") and [line.split()[0] for line in lines[1:]] == [
        f"layer{stage}.{i}" for stage in (1, 2, 3) for i in range(3)
    ]
    facts = json.loads((tmp_path / "out" / "excitations.json").read_text())
    assert (facts["images"], facts["plotted"]) == ((6, ["all"]) if plain else (12, ["cat", "dog"]))
    network = seresnet.create_model("seresnet20.cifar10", pretrained=True).eval()
    paths = sorted(given.rglob("[0-9]*.png"))
    gates = hooked(network, torch.from_numpy(np.stack([network.preprocess.array(decode(p)) for p in paths])))
    rows = list(csv.DictReader((tmp_path / "out" / "channels.csv").open()))
    assert Counter(row["block"] for row in rows)["layer3.2"] == 64
    for row in rows:
        mean = gates[row["block"]][:, int(row["channel"])].mean()
        assert float(row["mean"]) == pytest.approx(mean, abs=1e-6)
    assert (tmp_path / "out" / "distances.png").exists() != plain
    done = here("excitations", given, "--out", tmp_path / "out")
    assert done.returncode == 2 and b"is not empty" in done.stderr
