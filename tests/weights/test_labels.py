"""Class names from files, as people have them, and of ImageNet-1k."""

import codecs
from pathlib import Path

import numpy as np
import pytest

from seresnet.errors import ConfigError
from seresnet.inference.classifier import load
from seresnet.weights.labels import read_labels
from tests.cli.terminal import here
from tests.networks import tiny


@pytest.mark.parametrize(
    "content",
    [
        b"cat\ndog\nb\xc3\xa9b\xc3\xa9 ours\n",
        codecs.BOM_UTF8 + b"cat\r\ndog\r\nb\xc3\xa9b\xc3\xa9 ours\r\n\r\n",
        "\ufeffcat\ndog\nbébé ours".encode("utf-16-le"),
        '["cat", "dog", "bébé ours"]'.encode(),
        ' {"1": "dog", "2": "bébé ours", "0": "cat"}'.encode(),
    ],
)
def test_names_in_every_usual_form(tmp_path, content):
    (tmp_path / "labels.txt").write_bytes(content)
    assert read_labels(str(tmp_path / "labels.txt")) == (["cat", "dog", "bébé ours"], [])


def test_wordnet_ids_before_the_names_are_ids(tmp_path):
    (tmp_path / "synset_words.txt").write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish\n")
    assert read_labels(str(tmp_path / "synset_words.txt")) == (
        ["tench, Tinca tinca", "goldfish"],
        ["n01440764", "n01443537"],
    )


def test_imagenet_1k():
    names, ids = read_labels("imagenet-1k")
    assert (len(names), len(set(names)), names[0], ids[0]) == (1000, 1000, "tench", "n01440764")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no names"),
        (b"cat\n\ndog\n", "name 2 is empty"),
        (b"[1, 2]", "every name must be text"),
        (b"[" * 100_000, "no readable JSON"),
        (b'{"1": "a", "2": "b"}', "the keys must be the indexes 0, 1, 2"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"caf\xe9\n", "cannot be read"),
    ],
)
def test_what_holds_no_names_is_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "labels").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as raised:
        read_labels(str(tmp_path / "labels"))
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there():
    with pytest.raises(ConfigError, match="no such file; give a text file with a name a line"):
        read_labels("nowhere.txt")


def test_the_names_given_take_the_place_of_the_models(tmp_path):
    image = np.zeros((8, 8, 3), np.uint8)
    own = load(tiny(), device="cpu").predict(image, topk=3)[0]
    given = load(tiny(), device="cpu", labels=["a", "b", "c"]).predict(image, topk=3)[0]
    assert given.labels == tuple("abc"[i] for i in own.indices)
    with pytest.raises(ConfigError, match="labels hold 2 names, the model has 3 classes"):
        load(tiny(), device="cpu", labels=["a", "b"])


def test_the_flag(tmp_path: Path):
    (tmp_path / "labels.txt").write_text("\n".join(f"name {i}" for i in range(10)))
    done = here("predict", tmp_path / "gone.jpg", "--labels", tmp_path / "labels.txt")
    assert done.returncode == 1
    done = here("predict", tmp_path / "gone.jpg", "--labels", "imagenet-1k")
    assert done.returncode == 2 and b"labels hold 1,000 names, the model has 10 classes" in done.stderr
