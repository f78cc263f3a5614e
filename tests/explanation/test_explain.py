"""Explanations of a network that was trained on made images: the hot place is where the object is."""

import numpy as np
import pytest
import torch

import seresnet
from seresnet.errors import ConfigError, ImageError
from seresnet.explanation.explain import Explainer
from seresnet.models.fuse import fuse_network
from seresnet.models.variants import build
from tests.explanation.objects import SIDE, picture, trained
from tests.networks import tiny


@pytest.fixture(scope="module")
def explainer():
    return Explainer(trained())


@pytest.mark.parametrize("size", [(32, 32), (60, 32)])
def test_the_hottest_place_lies_on_the_object(explainer, size):
    rng, on_object, right = np.random.default_rng(7), 0, 0
    for number in range(12):
        left = (size[0] - 32) // 2 + int(rng.integers(0, 32 - SIDE + 1))  # within what the network sees
        image, (left, top) = picture(rng, number % 3, *size, at=(left, int(rng.integers(0, 32 - SIDE + 1))))
        explanation = explainer.explain(image)
        right += explanation.index == number % 3
        heat = np.nan_to_num(explanation.heat_map())
        assert heat.shape == (size[1], size[0])
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        box = explanation.box
        on_object += left - 2 <= column < left + SIDE + 2 and top - 2 <= row < top + SIDE + 2
        assert box[0] < left + SIDE and box[2] > left and box[1] < top + SIDE and box[3] > top
    assert right == 12 and on_object >= 11


def test_a_named_class_is_explained(explainer):
    image, _ = picture(np.random.default_rng(0), 0)
    other = explainer.explain(image, "blue")
    assert (other.label, other.index) == ("blue", 2)
    assert other.top(1)[0][0] == "red" and other.probability < 0.5
    assert explainer.explain(image, 2).index == explainer.explain(image, "BLUE").index == 2
    assert not np.array_equal(other.cam, explainer.explain(image, "red").cam)


def test_probabilities_are_those_of_the_classifier(explainer):
    image, _ = picture(np.random.default_rng(0), 1)
    clf = seresnet.load(explainer.network, engine="torch", precision="float32")
    explanation = clf.explain(image)
    expected = clf.predict(image, topk=3)[0]
    assert [row[0] for row in explanation.top(3)] == list(expected.labels)
    np.testing.assert_allclose([row[2] for row in explanation.top(3)], expected.probabilities, atol=1e-5)


def test_the_channels_are_those_with_the_largest_changes(explainer):
    explanation = explainer.explain(picture(np.random.default_rng(0), 1)[0])
    changes = np.concatenate([explanation.gates[name] - explanation.reference[name] for name in explanation.gates])
    shown = [channel.change for channel in explanation.channels]
    np.testing.assert_allclose(shown[:4], np.sort(changes)[::-1][:4], atol=1e-6)
    np.testing.assert_allclose(shown[4:], np.sort(changes)[:4], atol=1e-6)
    for channel in explanation.channels:
        assert channel.gate == pytest.approx(explanation.gates[channel.block][channel.index])
        assert channel.features.ndim == 2


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("bleu", "did you mean blue"),
        ("zebra", "the classes are red, green, blue"),
        (3, "classes 0 to 2"),
        (-1, "0 to 2"),
    ],
)
def test_a_class_that_the_model_does_not_have_is_refused(explainer, label, message):
    with pytest.raises(ConfigError, match=message):
        explainer.explain(picture(np.random.default_rng(0), 1)[0], label)


def test_a_name_of_several_classes_is_refused():
    with pytest.raises(ConfigError, match="2 classes: give one index of 0, 2"):
        Explainer(tiny(), labels=["crane", "dog", "crane"]).index_of("crane")


def test_networks_that_cannot_be_explained_are_refused():
    network = tiny()
    with pytest.raises(ConfigError, match="explain the network that it was made of"):
        Explainer(fuse_network(network))
    network.reset_classifier(0)
    with pytest.raises(ConfigError, match="no classifier"):
        Explainer(network)
    network = tiny()
    network.preprocess = None
    with pytest.raises(ConfigError, match="no preprocessing"):
        Explainer(network)


def test_a_network_without_excitation_has_a_heat_map_and_no_gates():
    torch.manual_seed(0)
    network = build("resnet20") if "resnet20" in seresnet.list_models() else build("resnet18")
    network.preprocess = tiny(32).preprocess
    explanation = Explainer(network).explain(picture(np.random.default_rng(0), 1)[0])
    assert explanation.gates == {} and explanation.channels == () and explanation.to_dict()["reference"] is None


def test_the_classifier_explains_by_name_and_takes_one_image(tmp_path):
    clf = seresnet.load("seresnet20.cifar10")
    image = picture(np.random.default_rng(0), 1)[0]
    image.save(tmp_path / "a.png")
    by_path, by_array = clf.explain(tmp_path / "a.png"), clf.explain(np.asarray(image), "cat")
    assert len(by_path.gates) == 9 and by_array.label == "cat"
    with pytest.raises(ConfigError, match="one image at a time"):
        clf.explain([image, image])
    with pytest.raises(ImageError):
        clf.explain(tmp_path / "missing.png")


def test_an_untrained_classifier_is_not_explained():
    clf = seresnet.load("seresnet20.cifar10", num_classes=4, engine="torch")
    with pytest.raises(ConfigError, match="untrained"):
        clf.explain(picture(np.random.default_rng(0), 1)[0])
