"""Evaluation of several labels an image: figures against loops in plain NumPy, images against the network by hand."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from seresnet.data.pack import pack
from seresnet.errors import DataError
from seresnet.evaluation.evaluate import evaluate
from seresnet.evaluation.plots import draw_mistakes, draw_per_class
from seresnet.evaluation.report import write_report
from seresnet.evaluation.result import Evaluation
from seresnet.inference.classifier import Classifier, load
from seresnet.metrics.multi_label import MultiLabelMetrics
from tests.evaluation.made import evaluation_of
from tests.evaluation.test_evaluate import picture, tiny
from tests.metrics.test_multi_label import LABELS, scores


def several() -> torch.nn.Module:
    """Return the small network as one that tells several labels apart."""
    model = tiny()
    model.multi_label = True
    return model


@pytest.fixture(scope="module")
def clf() -> Classifier:
    return load(several(), device="cpu", precision="float32")


CELLS = ["dog", "cat;émeu", "", "cat", "émeu; dog", "dog;cat;émeu", "émeu", "cat", "dog", ""]


def listed(root: Path, cells: list[str] = CELLS, column: str = "labels") -> Path:
    """Write images and a list of them."""
    for i in range(len(cells)):
        picture(i).save(root / f"{i}.png")
    lines = [f"path,{column}", *(f"{i}.png,{cell}" for i, cell in enumerate(cells))]
    (root / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    return root / "list.csv"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return listed(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(("batch_size", "workers"), [(None, None), (1, 0), (4, 2)])
def test_every_image_counts_once_and_as_the_network_sees_it(clf, data, batch_size, workers):
    found = evaluate(clf, data, batch_size, workers)
    assert isinstance(found.metrics, MultiLabelMetrics)
    model, paths = several(), [data.parent / f"{i}.png" for i in range(10)]
    with torch.no_grad():
        images = torch.stack([model.preprocess(Image.open(path).convert("RGB")) for path in paths])
        probabilities = model(images).double().sigmoid().numpy()
    names = [{name.strip() for name in cell.split(";")} - {""} for cell in CELLS]
    assert [r.path for r in found.results] == [str(path) for path in paths]
    assert [{found.labels[i] for i in r.targets} for r in found.results] == names
    assert [r.predicted for r in found.results] == [tuple(np.flatnonzero(row > 0.5)) for row in probabilities]
    assert len({r.predicted for r in found.results}) >= 3  # or the labels could not be told apart
    for r, row in zip(found.results, probabilities, strict=True):
        assert r.probabilities == {i: pytest.approx(row[i], rel=1e-4) for i in {*r.targets, *r.predicted}}
    assert (found.metrics.n, found.unreadable, found.notes) == (10, (), ())
    np.testing.assert_array_equal(found.metrics.support, [4, 4, 4])


def test_unreadable_images_are_named_and_not_counted(clf, tmp_path):
    source = listed(tmp_path)
    whole = evaluate(clf, source)
    (tmp_path / "3.png").write_bytes(b"")
    (tmp_path / "5.png").write_text("<html>not an image</html>")
    found = evaluate(clf, source, batch_size=3)
    assert [path for path, _ in found.unreadable] == [str(tmp_path / "3.png"), str(tmp_path / "5.png")]
    assert found.metrics.n == 8
    assert [r.path for r in found.results] == [r.path for i, r in enumerate(whole.results) if i not in (3, 5)]
    assert [r.predicted for r in found.results] == [r.predicted for i, r in enumerate(whole.results) if i not in (3, 5)]


def test_labels_are_matched_by_name_and_one_without_images_is_named(data, tmp_path):
    """The model's classes are not in sorted order, and no image has one of them."""
    model = several()
    model.labels = ["émeu", "unicorn", "cat"]
    found = evaluate(model, listed(tmp_path, ["cat;émeu", "cat", "émeu", ""]))
    assert [r.targets for r in found.results] == [(0, 2), (2,), (0,), ()]
    assert found.notes == (
        "2 of the model's 3 classes have images; macro averages are over these; no images of unicorn",
    )
    figures = json.loads(json.dumps(found.summary(), allow_nan=False))
    assert (figures["classes"], figures["classes_with_images"]) == (3, 2)
    assert figures["mean_average_precision"] == pytest.approx(found.metrics.average_precision[[0, 2]].mean(), rel=1e-6)
    write_report(found, tmp_path / "report")
    rows = table(tmp_path / "report" / "per_class.csv")
    assert rows[2] == ["unicorn", "", "", "", "", "0"]
    assert all(rows[1]) and all(rows[3])


def test_a_label_that_only_unreadable_images_have_is_named_too(clf, tmp_path):
    source = listed(tmp_path, ["cat", "dog", "émeu", "cat;dog"])
    (tmp_path / "2.png").write_bytes(b"")
    assert evaluate(clf, source).notes[0].endswith("no images of émeu")


def test_a_model_of_one_label_is_refused_on_several_and_the_other_way_round(clf, data, tmp_path):
    one = listed(tmp_path, ["cat", "dog", "émeu"], column="label")
    with pytest.raises(DataError, match="has several labels, and SEResNet predicts one: give a model") as caught:
        evaluate(tiny(), data)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="has one label, and SEResNet predicts several: give a list") as caught:
        evaluate(clf, one)
    assert "\n" not in str(caught.value)
    one.write_text(one.read_text().replace("path,label", "path,labels"))  # what the message says
    assert evaluate(clf, one).metrics.n == 3
    assert evaluate(tiny(), listed(tmp_path, ["cat", "dog", "émeu"], "label")).metrics.n == 3


def table(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def made() -> Evaluation[MultiLabelMetrics]:
    photos = [Path(skimage.__file__).parent / "data" / name for name in ("astronaut.png", "chelsea.png", "coffee.png")]
    found = evaluation_of(*scores(digits=6), LABELS)
    return replace(found, results=tuple(replace(r, path=str(photos[i % 3])) for i, r in enumerate(found.results)))


def test_the_files_say_what_was_measured(tmp_path):
    e = made()
    write_report(e, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        *("metrics.json", "per_class.csv", "predictions.csv", "per_class.png", "mistakes.png", "report.html")
    }
    assert json.loads((tmp_path / "metrics.json").read_text()) == e.summary()

    head, *rows = table(tmp_path / "per_class.csv")
    assert head == ["class", "average_precision", "precision", "recall", "f1", "images"]
    assert [row[0] for row in rows] == LABELS
    values = np.array([row[1:] for row in rows[:4]], float).T
    expected = [
        v[:4]
        for v in (e.metrics.average_precision, e.metrics.precision, e.metrics.recall, e.metrics.f1, e.metrics.support)
    ]
    np.testing.assert_allclose(values, expected, rtol=1e-5)

    head, *rows = table(tmp_path / "predictions.csv")
    assert head == ["path", "targets", "predicted", "probabilities"]
    logits, labels = scores(digits=6)
    for row, logit, label in zip(rows, logits, labels, strict=True):
        assert row[1] == ";".join(name for name, has in zip(LABELS, label, strict=True) if has)
        assert row[2] == ";".join(name for name, score in zip(LABELS, logit, strict=True) if score > 0)
        found = [float(share) for share in row[3].split(";") if share]
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-logit[logit > 0])), rtol=1e-5)


def test_no_file_of_the_other_kind_stays_in_the_folder(tmp_path):
    write_report(evaluation_of(np.eye(3), np.array([0, 1, 1]), ["a", "b", "c"]), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    write_report(made(), tmp_path, exist_ok=True)
    assert not {"confusion.csv", "confusion.png", "reliability.png"} & {p.name for p in tmp_path.iterdir()}
    assert {"notes.txt", "per_class.png", "mistakes.png"} <= {p.name for p in tmp_path.iterdir()}


def test_the_bars_are_the_average_precision_of_labels_that_have_images():
    e = made()
    figure = draw_per_class(e)
    bars = [bar.get_width() for bar in figure.axes[0].containers[0]]
    np.testing.assert_allclose(bars, np.sort(e.metrics.average_precision[:4]))
    share = 100 * e.metrics.mean_average_precision
    assert figure.get_suptitle() == f"Average precision by class: macro average {share:.1f} %"


def test_the_gallery_is_the_most_confident_mistakes():
    e = made()
    logits, labels = scores(digits=6)
    wrong = np.where((logits > 0) != (labels > 0), np.abs(logits), -1)  # of labels; the larger the surer
    order = np.argsort(-wrong.max(axis=1), kind="stable")[:24]
    titles, captions = [], []
    for image in order:
        label = int(wrong[image].argmax())
        share = 100 / (1 + np.exp(-float(np.abs(logits[image, label]))))
        titles.append(f"{'' if logits[image, label] > 0 else 'no '}{LABELS[label]} ({share:.1f} %)")
        captions.append("true: " + (", ".join(np.array(LABELS)[labels[image] > 0]) or "none of them"))
    tiles = [axes for axes in draw_mistakes(e).axes if axes.images]
    assert [axes.get_title() for axes in tiles] == titles
    assert [axes.texts[0].get_text()[:15] for axes in tiles] == [caption[:15] for caption in captions]
    assert any(title.startswith("no ") for title in titles) and any("none" in caption for caption in captions)
    assert draw_mistakes(replace(e, results=tuple(r for r in e.results if r.mistake(e.labels) is None))) is None


def test_the_most_frequent_confusions_are_counted_by_label():
    logits = np.array([[-1, 1.0], [-1, 1], [-1, -1], [1, 1]])
    e = evaluation_of(logits, np.array([[1, 0], [1, 0], [1, 0], [0, 1]]), ["cat", "dog"])
    confusions = e.metrics.most_frequent_confusions(e.labels, 9)
    assert confusions[:2] == [("cat: false negative", 3, 3), ("dog: false positive", 2, 3)]
    assert len(confusions) == 3


def test_shards_of_the_list_give_the_same(clf, data, tmp_path):
    pack(data, tmp_path / "shards", shard_size=4)
    expected, found = evaluate(clf, data), evaluate(clf, tmp_path / "shards")
    by_path = {Path(r.path).name: (r.targets, r.predicted) for r in expected.results}
    stored = {re.sub(r".*\d_", "", r.path): (r.targets, r.predicted) for r in found.results}
    assert stored == by_path
    assert found.metrics.mean_average_precision == pytest.approx(expected.metrics.mean_average_precision)
    assert draw_mistakes(found) is not None  # thumbnails are read from the shards
