"""Faults that are planted into a made data set are found, and nothing else is named."""

import csv
import io
import shutil

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.linear_model import LogisticRegression

from seresnet.dataset_checks.images import gradients
from seresnet.dataset_checks.labels import out_of_fold
from tests.cli.terminal import here

KINDS = ["unreadable", "tiny", "duplicate", "near_duplicate", "leak", "conflict", "label", "outlier"]
TINTS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


def blotches(rng: np.random.Generator, tint: tuple[int, int, int], size: int = 64) -> Image.Image:
    """Return a picture of large blotches around a colour, no two alike."""
    coarse = (rng.normal(0, 45, (8, 8, 1)) + np.array(tint)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """A data set with planted faults, and what ``seresnet check`` says of it."""
    root = tmp_path_factory.mktemp("check")
    data, rng = root / "data", np.random.default_rng(0)
    for split, count in (("train", 30), ("validation", 8)):
        for name, tint in TINTS.items():
            (data / split / name).mkdir(parents=True)
            for i in range(count):
                blotches(rng, tint).save(data / split / name / f"{i:02d}.png")
    train, validation = data / "train", data / "validation"
    planted = {kind: set() for kind in KINDS}

    def plant(kind, path, image=None):
        if image is not None:
            image.save(path)
        planted[kind].add(str(path))

    (train / "red" / "broken.png").write_bytes((train / "red" / "00.png").read_bytes()[:200])
    plant("unreadable", train / "red" / "broken.png")
    plant("tiny", train / "blue" / "small.png", blotches(rng, TINTS["blue"], 5))
    shutil.copy(train / "green" / "03.png", train / "green" / "same.png")
    plant("duplicate", train / "green" / "same.png")
    original = Image.open(train / "green" / "04.png")
    plant("near_duplicate", train / "green" / "saved.jpg", original)
    plant("near_duplicate", train / "green" / "smaller.png", original.resize((40, 40)))
    plant("near_duplicate", train / "green" / "brighter.png", ImageEnhance.Brightness(original).enhance(1.2))
    shutil.copy(train / "red" / "05.png", validation / "red" / "leaked.png")
    plant("leak", train / "red" / "05.png")
    Image.open(train / "red" / "06.png").save(validation / "red" / "almost.jpg")
    plant("leak", train / "red" / "06.png")
    Image.open(train / "red" / "07.png").save(train / "blue" / "other.png")
    plant("conflict", train / "red" / "07.png")
    plant("conflict", train / "blue" / "other.png")
    plant("label", train / "blue" / "other.png")
    for i in range(3):
        plant("label", train / "green" / f"wrong{i}.png", blotches(rng, TINTS["red"]))
    out = root / "out"
    done = here("check", data, "--out", out)
    rows = list(csv.DictReader(io.StringIO((out / "faults.csv").read_text())))
    return data, planted, rows, out, done


def found(rows, kind: str) -> set[str]:
    return {row["path"] for row in rows if row["kind"] == kind}


@pytest.mark.parametrize("kind", ["unreadable", "tiny", "duplicate", "near_duplicate", "leak", "conflict"])
def test_what_was_planted_is_found_and_nothing_else(checked, kind):
    _, planted, rows, *_ = checked
    assert found(rows, kind) == planted[kind]


def test_wrong_labels_are_found_with_the_right_class(checked):
    _, planted, rows, *_ = checked
    assert planted["label"] <= found(rows, "label") and len(found(rows, "label")) <= len(planted["label"]) + 2
    likelier = {row["path"]: row["detail"] for row in rows if row["kind"] == "label"}
    assert {likelier[path] for path in planted["label"]} == {"red"}


def test_details_name_the_other_file_and_scores_fall(checked):
    data, _, rows, *_ = checked
    (copy,) = [row for row in rows if row["kind"] == "duplicate"]
    assert copy["detail"] == str(data / "train" / "green" / "03.png") and float(copy["score"]) == 1
    leaks = {row["path"]: row["detail"] for row in rows if row["kind"] == "leak"}
    assert leaks[str(data / "train" / "red" / "05.png")] == str(data / "validation" / "red" / "leaked.png")
    for kind in KINDS:
        scores = [float(row["score"]) for row in rows if row["kind"] == kind]
        assert scores == sorted(scores, reverse=True)
    assert list(rows[0]) == ["path", "kind", "detail", "score"]


def test_the_command_counts_and_the_page_needs_no_other_host(checked):
    *_, out, done = checked
    assert done.returncode == 1 and b"broken.png" in done.stderr
    assert [line.split()[0] for line in done.stdout.decode().splitlines()] == KINDS
    page = (out / "index.html").read_text()
    assert page.count("<figure>") == len(list(csv.DictReader((out / "faults.csv").open())))
    assert "http" not in page.replace("http-equiv", "") and page.endswith("</body></html>\n")


def test_a_model_that_does_not_separate_the_classes_is_named(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(10):
            blotches(rng, TINTS["red"]).save(tmp_path / "data" / name / f"{i}.png")
    done = here("check", tmp_path / "data", "--out", tmp_path / "out")
    assert done.returncode == 0 and b"do not separate these classes well" in done.stderr


def test_training_leaves_the_listed_images_out(checked, tmp_path):
    data, _, rows, out, _ = checked
    run = ["train", data, "--recipe", "debug", "--out"]
    done = here(*run, tmp_path / "run", "--exclude", out / "faults.csv")
    assert done.returncode == 0, done.stderr.decode()
    paths = {row["path"] for row in rows}
    assert f"left out {len(paths)} images".encode() in done.stderr
    kept = len(list((data / "train").rglob("*.*"))) - sum("/train/" in path for path in paths)
    assert f"{kept} training images".encode() in done.stderr
    (tmp_path / "list.csv").write_text("path\nelsewhere.png\n")
    done = here(*run, tmp_path / "other", "--exclude", tmp_path / "list.csv")
    assert done.returncode == 2 and b"none of its 1 images is in the data" in done.stderr
    everything = [str(path) for path in (data / "train" / "red").iterdir()]
    (tmp_path / "list.csv").write_text("\n".join(["path", *everything]))
    done = here(*run, tmp_path / "other", "--exclude", tmp_path / "list.csv")
    assert done.returncode == 2 and b"leaves no training image of red" in done.stderr
    (tmp_path / "list.csv").write_text("name,label\na.png,red\n")
    assert here(*run, tmp_path / "other", "--exclude", tmp_path / "list.csv").returncode == 2


def test_out_of_fold_probabilities_are_a_logistic_regressions():
    """Against scikit-learn's, on other folds: the same images are doubtful."""
    rng = np.random.default_rng(0)
    targets = np.arange(150) % 3
    x = (rng.normal(size=(150, 6)) + 2.5 * np.eye(3, 6)[targets]).astype(np.float32)
    ours = out_of_fold(x, targets, 3)
    np.testing.assert_allclose(ours.sum(1), 1, atol=1e-5)
    theirs = np.empty_like(ours)
    for fold in range(5):
        held = np.arange(150) // 3 % 5 == fold
        theirs[held] = LogisticRegression(C=1.0).fit(x[~held], targets[~held]).predict_proba(x[held])
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.97


def test_pictures_of_one_colour_are_never_near_duplicates():
    assert not gradients(Image.new("RGB", (64, 64), "red")).any()


def test_several_labels_per_image_are_refused(tmp_path):
    for i in range(3):
        Image.new("RGB", (16, 16), (80 * i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "list.csv").write_text("path,labels\n0.png,a b\n1.png,a\n2.png,b\n")
    done = here("check", tmp_path / "list.csv", "--out", tmp_path / "out")
    assert done.returncode == 2 and b"one label per image" in done.stderr
