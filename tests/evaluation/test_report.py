"""The files of a report, read back; and what the pictures show, from the drawings themselves."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage
from matplotlib.text import Annotation
from PIL import Image

from seresnet.common.files import check_output_folder
from seresnet.errors import ConfigError
from seresnet.evaluation import report
from seresnet.evaluation.plots import draw_confusion, draw_mistakes, draw_per_class, draw_reliability
from seresnet.evaluation.report import write_report
from seresnet.evaluation.result import Evaluation, Published, SingleLabelResult
from seresnet.metrics.single_label import SingleLabelMetrics
from tests.evaluation.made import evaluation_of

SKIMAGE = Path(skimage.__file__).parent / "data"
PHOTOS = [SKIMAGE / name for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")]
FILES = [
    *("confusion.csv", "confusion.png", "coverage.csv", "coverage.png", "metrics.json", "per_class.csv"),
    *("per_class.png", "predictions.csv", "report.html"),
]


def made(classes: int, n: int, labels: list[str] | None = None) -> Evaluation[SingleLabelMetrics]:
    """An evaluation of random logits that are often right."""
    rng = np.random.default_rng(classes)
    targets = np.arange(n) % classes
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), targets] += rng.uniform(0, 5, n)
    return evaluation_of(logits, targets, labels or [f"class no. {i}" for i in range(classes)])


def with_photos(e: Evaluation[SingleLabelMetrics]) -> Evaluation[SingleLabelMetrics]:
    """The same, with a photograph for each image."""
    results = tuple(replace(r, path=str(PHOTOS[i % len(PHOTOS)])) for i, r in enumerate(e.results))
    return replace(e, results=results)


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def texts(figure) -> list[str]:
    """Everything written in a figure."""
    from matplotlib.text import Text

    return [t.get_text() for t in figure.findobj(Text) if t.get_text()]


def test_the_files_say_what_was_measured(tmp_path):
    labels = ["cat", "dog, the animal", "émeu", "写真", 'quo"te', "$x$"]
    e = replace(
        with_photos(made(6, 60, labels)),
        model="m",
        data="d",
        unreadable=(("bad\udcff.jpg", "truncated JPEG"),),
        published=Published(0.9, None, "somewhere"),
    )
    assert write_report(e, tmp_path / "new" / "report") == tmp_path / "new" / "report"
    folder = tmp_path / "new" / "report"
    assert sorted(p.name for p in folder.iterdir()) == sorted([*FILES, "mistakes.png", "reliability.png"])

    figures = json.loads((folder / "metrics.json").read_text())
    assert figures == e.summary()
    assert (figures["top1"], figures["images"], figures["unreadable"]) == (
        pytest.approx(e.metrics.top1, rel=1e-6),
        60,
        1,
    )
    assert figures["unreadable_images"] == [{"path": "bad\udcff.jpg", "reason": "truncated JPEG"}]
    assert figures["published"] == {"top1": 0.9, "top5": None, "data": "somewhere"}

    head, *table = rows(folder / "per_class.csv")
    assert head == ["class", "precision", "recall", "f1", "images"]
    assert [row[0] for row in table] == labels
    values = np.array([row[1:] for row in table], float).T
    np.testing.assert_allclose(
        values, [e.metrics.precision, e.metrics.recall, e.metrics.f1, e.metrics.support], rtol=1e-5
    )

    head, *table = rows(folder / "confusion.csv")
    assert head[1:] == labels == [row[0] for row in table]
    np.testing.assert_array_equal(np.array([row[1:] for row in table], int), e.metrics.confusion)

    head, *table = rows(folder / "predictions.csv")
    assert head == ["path", "target", "top1", "probability"]
    expected = [[r.path, labels[r.target], labels[r.top1]] for r in e.results]
    assert [row[:3] for row in table] == expected
    np.testing.assert_allclose([float(row[3]) for row in table], [r.probability for r in e.results], rtol=1e-5)

    for name in ("confusion", "reliability", "per_class", "mistakes"):
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.format == "PNG" and min(picture.size) > 200
            assert len(picture.convert("RGB").getcolors(10**7)) > 50  # something is drawn


def test_a_report_is_not_overwritten_by_chance(tmp_path):
    e = made(3, 30)
    write_report(e, tmp_path)
    with pytest.raises(ConfigError, match="is not empty: give another folder"):
        write_report(e, tmp_path)
    before = (tmp_path / "metrics.json").read_bytes()
    write_report(made(3, 33), tmp_path, exist_ok=True)
    assert (tmp_path / "metrics.json").read_bytes() != before


def test_overwriting_leaves_no_picture_of_the_report_before(tmp_path):
    e = with_photos(made(3, 30))
    write_report(e, tmp_path)
    assert (tmp_path / "mistakes.png").exists()
    (tmp_path / "notes.txt").write_text("mine")
    right = evaluation_of(np.eye(3) * 9, np.arange(3), e.labels)
    write_report(right, tmp_path, exist_ok=True)
    assert not (tmp_path / "mistakes.png").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "confusion.png").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "report").write_text("")
    with pytest.raises(ConfigError, match="is a file: give a folder to write to"):
        check_output_folder(tmp_path / "report", exist_ok=True)
    check_output_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    check_output_folder(tmp_path / "empty")


def test_a_failure_leaves_no_half_of_a_file(tmp_path, monkeypatch):
    def fail(e):
        figure = draw_confusion(e)
        figure.savefig = lambda file, **_: (file.write(b"half"), 1 / 0)
        return figure

    monkeypatch.setitem(report.CONTENTS[SingleLabelMetrics].pictures, "confusion.png", fail)
    with pytest.raises(ZeroDivisionError):
        write_report(made(3, 30), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_message_has_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r'matplotlib is not installed: run pip install "seresnet\[train\]"'):
        write_report(made(3, 30), tmp_path)


def test_the_matrix_shows_every_count():
    e = made(7, 210)
    figure = draw_confusion(e)
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown, e.metrics.confusion / e.metrics.confusion.sum(axis=1, keepdims=True))
    written = [t.get_text() for t in figure.axes[0].texts]
    assert sorted(written) == sorted(f"{count}" for count in e.metrics.confusion.flat if count)
    assert f"Confusion: top-1 accuracy {100 * e.metrics.top1:.2f} % of 210 images" in texts(figure)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == list(e.labels)


def test_the_matrix_leaves_out_classes_that_do_not_occur():
    logits = np.full((4, 1000), -9.0)
    logits[[0, 1, 2, 3], [5, 5, 900, 7]] = 9
    figure = draw_confusion(evaluation_of(logits, np.array([5, 5, 900, 900]), [f"c{i}" for i in range(1000)]))
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["c5", "c7", "c900"]


def test_of_many_classes_the_most_frequent_confusions_are_listed():
    e = made(300, 3000)
    figure = draw_confusion(e)
    axes = figure.axes[0]
    widths = [bar.get_width() for bar in axes.patches]
    expected = e.metrics.most_confused(30)
    assert widths[::-1] == [count for *_, count in expected]
    names = [t.get_text() for t in axes.get_yticklabels()][::-1]
    assert names == [f"class no. {i} → class no. {j}" for i, j, _ in expected]
    notes = [t.get_text() for t in axes.findobj(Annotation)][::-1]
    assert notes[0].startswith(f"{expected[0][2]} of 10 (")
    assert max(figure.get_size_inches()) < 14


def test_the_reliability_diagram_is_the_bins():
    e = made(10, 500)
    upper, lower = draw_reliability(e).axes
    full = e.metrics.bin_count > 0
    heights = [bar.get_height() for bar in upper.containers[0]]
    np.testing.assert_allclose(heights, e.metrics.bin_accuracy[full])
    gaps = (e.metrics.bin_confidence - e.metrics.bin_accuracy)[full]
    over, under = ([bar.get_height() for bar in upper.containers[i]] for i in (1, 2))
    np.testing.assert_allclose(over, gaps[gaps > 0])
    np.testing.assert_allclose(under, -gaps[gaps < 0])
    assert all(bar.get_hatch() for i in (1, 2) for bar in upper.containers[i])
    np.testing.assert_array_equal([bar.get_height() for bar in lower.containers[0]], e.metrics.bin_count[full])
    assert [text.get_text() for text in lower.texts] == [f"{count:,}" for count in e.metrics.bin_count[full]]
    assert f"Reliability: expected calibration error {100 * e.metrics.ece:.2f} %" in texts(upper.figure)


@pytest.mark.parametrize(("classes", "n", "drawn"), [(2, 40, 2), (40, 400, 40), (41, 410, 30), (1000, 3000, 30)])
def test_the_bars_are_the_classes_by_f1(classes, n, drawn):
    e = made(classes, n)
    figure = draw_per_class(e)
    bars = [bar.get_width() for bar in figure.axes[0].containers[0]]
    ordered = np.sort(e.metrics.f1)
    expected = ordered if drawn == classes else np.concatenate([ordered[:15], ordered[-15:]])
    np.testing.assert_allclose(bars, expected)
    assert max(figure.get_size_inches()) < 14
    if drawn < classes:
        assert sum(bar.get_height() for bar in figure.axes[1].patches) == classes


def test_the_gallery_is_the_most_confident_mistakes():
    e = with_photos(made(5, 200))
    figure = draw_mistakes(e)
    worst = e.mistakes()[:24]
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == [f"{e.labels[r.top1]} ({100 * r.probability:.1f} %)" for r, _ in worst]
    captions = [axes.texts[0].get_text() for axes in figure.axes if axes.images]
    assert captions == [f"true: {e.labels[r.target]}" for r, _ in worst]
    first = np.asarray(figure.axes[0].images[0].get_array())
    with Image.open(worst[0][0].path) as photo:
        photo = photo.convert("RGB")
        photo.thumbnail((192, 192))
        np.testing.assert_array_equal(first, np.asarray(photo))


def test_the_gallery_skips_files_that_are_gone(tmp_path):
    e = made(3, 60)
    wrong = [i for i, r in enumerate(e.results) if r.top1 != r.target]
    results = [replace(r, path=str(tmp_path / "gone.jpg")) for r in e.results]
    results[wrong[0]] = replace(results[wrong[0]], path=str(PHOTOS[0]))
    figure = draw_mistakes(replace(e, results=tuple(results)))
    assert sum(bool(axes.images) for axes in figure.axes) == 1
    assert draw_mistakes(e) is None  # no paths at all
    assert draw_mistakes(replace(e, results=(SingleLabelResult(str(PHOTOS[0]), 1, 1, 0.9),))) is None  # no mistake


def test_names_are_drawn_as_they_are_and_without_a_warning(tmp_path, recwarn):
    e = made(2, 20, ["$not_math$", "日本 " + "long " * 30])
    write_report(e, tmp_path)
    assert not recwarn.list
    assert "$not_math$" in texts(draw_confusion(e))
    assert all(len(text) < 60 for text in texts(draw_per_class(e)))
