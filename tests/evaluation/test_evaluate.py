"""Evaluation of a real network on folders of images, against the network run by hand on each image."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

from seresnet.data.classes import match_classes
from seresnet.data.folder import image_folder
from seresnet.data.open_dataset import open_labelled
from seresnet.errors import ConfigError, DataError
from seresnet.evaluation.evaluate import evaluate, published
from seresnet.inference.classifier import Classifier, load
from seresnet.metrics.single_label import SingleLabelMetrics
from seresnet.models.resnet import SEResNet
from tests.networks import ANIMALS
from tests.networks import tiny as biased


def picture(seed: int) -> Image.Image:
    """Return a few patches around a colour, of a size of their own."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 200, 3) + rng.integers(0, 56, (3, 4, 3))
    return Image.fromarray(colours.astype(np.uint8)).resize((8 + seed % 7, 9 + seed % 5), Image.Resampling.NEAREST)


def tiny() -> SEResNet:
    """Return the small network with a classifier that gives each class a share of such pictures."""
    model = biased()
    with torch.no_grad():
        batch = torch.stack([model.preprocess(picture(seed)) for seed in range(1000, 1100)])
        model.fc.weight.mul_(3.0 / model(batch).std(0)[:, None])
        model.fc.bias.sub_(model(batch).mean(0))
    return model


def make_folder(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    for place, (name, count) in enumerate(counts.items()):
        for i in range(count):
            (root / name).mkdir(parents=True, exist_ok=True)
            picture(seed + 100 * place + i).save(root / name / f"{i:02d}.png")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("data"), {"cat": 9, "dog": 14, "émeu": 6})


@pytest.fixture(scope="module")
def clf() -> Classifier:
    return load(tiny(), device="cpu", precision="float32")


def by_hand(data: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Paths, classes and probabilities, one image at a time, in sorted order."""
    model = tiny()
    paths = sorted(data.glob("*/*.png"))
    with torch.no_grad():
        logits = [model(model.preprocess(Image.open(path).convert("RGB"))[None])[0] for path in paths]
    targets = np.array([ANIMALS.index(path.parent.name) for path in paths])
    return [str(path) for path in paths], targets, torch.softmax(torch.stack(logits).double(), 1).numpy()


def test_every_image_counts_once_and_as_the_network_sees_it(clf, data):
    paths, targets, shares = by_hand(data)
    found = evaluate(clf, data)
    assert [r.path for r in found.results] == paths
    assert [r.target for r in found.results] == targets.tolist()
    assert [r.top1 for r in found.results] == shares.argmax(axis=1).tolist()
    assert len(set(shares.argmax(axis=1))) == 3  # or the classes could not be told apart
    np.testing.assert_allclose([r.probability for r in found.results], shares.max(axis=1), rtol=1e-4)
    assert found.metrics.n == len(paths) == 29
    assert found.metrics.top1 == accuracy_score(targets, shares.argmax(axis=1))
    assert found.metrics.nll == pytest.approx(log_loss(targets, shares), rel=1e-5)
    np.testing.assert_array_equal(found.metrics.confusion, confusion_matrix(targets, shares.argmax(axis=1)))
    assert found.labels == tuple(ANIMALS)
    assert (found.unreadable, found.notes, found.published) == ((), (), None)
    assert found.data == str(data) and "float32" in found.engine


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (7, 2), (28, 1), (1000, 3)])
def test_batches_and_workers_change_nothing(clf, data, batch_size, workers):
    expected, found = evaluate(clf, data, batch_size=5), evaluate(clf, data, batch_size, workers)
    assert [(r.path, r.target, r.top1) for r in found.results] == [(r.path, r.target, r.top1) for r in expected.results]
    for name in ("n", "top1", "top5", "nll", "ece", "macro_f1", "confusion", "bin_count"):
        np.testing.assert_allclose(
            getattr(found.metrics, name), getattr(expected.metrics, name), rtol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_unreadable_images_are_named_and_not_counted(clf, tmp_path, batch_size):
    make_folder(tmp_path, {"cat": 5, "dog": 5, "émeu": 3})
    whole = {r.path: (r.target, r.top1) for r in evaluate(clf, tmp_path).results}
    broken = [tmp_path / "cat" / "00.png", tmp_path / "dog" / "02.png", tmp_path / "émeu" / "02.png"]
    broken[0].write_bytes(b"")
    broken[1].write_bytes(broken[1].read_bytes()[:60])
    broken[2].write_text("<html>not an image</html>")
    seen: list[tuple[str, str | None]] = []
    found = evaluate(clf, tmp_path, batch_size, progress=lambda path, error: seen.append((path, error)))
    assert [path for path, _ in found.unreadable] == [str(path) for path in broken]
    assert all(reason for _, reason in found.unreadable)
    assert found.metrics.n == len(found.results) == 10
    kept = {r.path: (r.target, r.top1) for r in found.results}
    assert kept == {path: row for path, row in whole.items() if path not in {str(b) for b in broken}}
    assert [path for path, _ in seen] == [str(path) for path in sorted(tmp_path.glob("*/*"))]
    assert [(path, error) for path, error in seen if error] == list(found.unreadable)


def test_nothing_readable_is_an_error(clf, tmp_path):
    for name in ANIMALS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"no images in its class folders .*x\.jpg: "):
        evaluate(clf, tmp_path)


def test_a_network_or_a_folder_object_will_do(data, tmp_path):
    assert evaluate(tiny(), image_folder(data)).metrics.top1 == evaluate(load(tiny(), device="cpu"), data).metrics.top1


def test_a_model_without_classifier_cannot_be_evaluated(data):
    model = tiny()
    model.reset_classifier(0)
    with pytest.raises(ConfigError, match="no classifier"):
        evaluate(model, data)


def test_a_shuffled_set_of_class_folders_is_matched_by_name(tmp_path):
    """The model's classes are not in sorted order, and one has no folder: indices must be the model's own."""
    data = make_folder(tmp_path, {"cat": 6, "émeu": 6})
    model = tiny()
    model.labels = ["émeu", "unicorn", "cat"]
    found = evaluate(model, data)
    assert [r.target for r in found.results] == [2] * 6 + [0] * 6
    np.testing.assert_array_equal(found.metrics.support, [6, 0, 6])
    assert found.notes == (
        "2 of the model's 3 classes have images; macro averages are over these; no images of unicorn",
    )


LABELS = ["tench", "great white shark", "crane", "crane", "T-shirt"]
IDS = ["n01440764", "n01484850", "n02012849", "n03126707", "n03595614"]


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["tench", "great white shark"], [0, 1]),
        (["T-shirt", "tench"], [4, 0]),
        (["n03126707", "n01440764"], [3, 0]),
        (["Great_White_Shark", "t_shirt"], [1, 4]),
    ],
)
def test_classes_are_matched_by_name_or_wordnet_id(classes, expected):
    assert match_classes(classes, LABELS, IDS)[0] == expected


def test_equal_names_are_preferred_to_similar_ones():
    assert match_classes(["cat", "Cat"], ["Cat", "cat"])[0] == [1, 0]


def test_folders_of_other_classes_are_named():
    with pytest.raises(DataError) as caught:
        match_classes(["aardvark", "tench", "zebra"], LABELS, IDS)
    message = str(caught.value)
    assert message.startswith("classes that the model does not know: aardvark, zebra; its 5 classes are tench, ")
    assert "\n" not in message
    with pytest.raises(DataError, match="a, b, c, d, e and 21 more"):
        match_classes([chr(97 + i) for i in range(26)], LABELS)


def test_a_name_of_two_classes_is_not_guessed():
    with pytest.raises(DataError, match="matches several of the model's: crane; name them by WordNet id"):
        match_classes(["crane", "tench"], LABELS, IDS)


def test_without_names_folders_are_taken_in_order_and_that_is_said(tmp_path):
    model = tiny()
    model.labels = []
    data = make_folder(tmp_path, {"x": 3, "a": 2, "m": 4})
    found = evaluate(model, data)
    assert [r.target for r in found.results] == [0] * 2 + [1] * 4 + [2] * 3
    assert found.notes == (
        "the model has no class names: the data's classes taken in natural order, from a as class 0",
    )
    with pytest.raises(DataError, match="3 classes without names, the data 2"):
        evaluate(model, make_folder(tmp_path / "other", {"x": 1, "y": 1}))


@pytest.mark.parametrize(
    ("parts", "taken"),
    [
        (["train", "test"], "test"),
        (["train", "val", "test"], "test"),
        (["train", "val"], "val"),
        (["validation"], "validation"),
    ],
)
def test_of_a_data_set_with_parts_the_test_part_is_taken(tmp_path, parts, taken):
    for place, part in enumerate(parts):
        make_folder(tmp_path / part, {"cat": 1, "dog": 2}, seed=place)
    assert open_labelled(tmp_path).root == tmp_path / taken


def test_a_class_may_have_the_name_of_a_part(tmp_path):
    make_folder(tmp_path, {"test": 2, "dog": 2})
    assert open_labelled(tmp_path).classes == ("dog", "test")


def test_folders_that_are_missing_or_empty_are_one_line(clf, tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataError) as caught:
            evaluate(clf, folder)
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_published_accuracy_of_named_weights():
    figures = published("legacy_seresnet50.in1k", 1000)
    assert figures is not None
    assert (figures.top1, figures.top5, figures.data) == (0.7765, 0.93732, "ImageNet-1k validation")
    assert published("legacy_seresnet50", 1000) == figures
    assert published("legacy_seresnet50", 10) is None  # another classifier
    assert published("some/directory", 1000) is None
    assert published("SEResNet", 3) is None


def test_the_order_of_the_samples_does_not_matter(clf, data):
    """Figures belong to images, not to places: a shuffled folder gives the same."""
    folder = image_folder(data)
    shuffled = list(folder.samples)
    random.Random(0).shuffle(shuffled)
    other = evaluate(clf, type(folder)(folder.root, folder.classes, tuple(shuffled)), batch_size=4)
    found = evaluate(clf, folder, batch_size=4)
    assert sorted((r.path, r.top1) for r in other.results) == sorted((r.path, r.top1) for r in found.results)
    np.testing.assert_array_equal(other.metrics.confusion, found.metrics.confusion)
    assert isinstance(found.metrics, SingleLabelMetrics)
