"""``seresnet predict --sort-into`` and ``--save``, and images at web addresses."""

import json
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from seresnet.data.placing import folder_names
from seresnet.errors import ConfigError, ImageError
from seresnet.inference import web_images
from seresnet.inference.classifier import load
from seresnet.inference.web_images import WebImage
from tests.cli.terminal import here

SKIMAGE = Path(skimage.__file__).parent / "data"


@pytest.fixture
def photos(tmp_path) -> Path:
    """Four photographs, two of them with one name, a copy of one of them with its name, and a text."""
    folder = tmp_path / "photos"
    for name, source in {
        "rocket.jpg": "rocket.jpg",
        "chelsea.png": "chelsea.png",
        "a/rocket.jpg": "retina.jpg",
        "b/rocket.jpg": "rocket.jpg",
        "coffee.png": "coffee.png",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SKIMAGE / source, folder / name)
    (folder / "broken.jpg").write_text("a text")
    return folder


def rows_of(done) -> dict[str, dict]:
    return {row["path"]: row for row in map(json.loads, done.stdout.splitlines())}


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("link", [False, True])
def test_images_are_sorted_by_class_and_the_doubtful_set_apart(photos, tmp_path, link):
    out = tmp_path / "sorted"
    arguments = ["predict", photos, "--format=jsonl", "--sort-into", out, "--threshold=0.5", *["--link"] * link]
    done = here(*arguments)
    assert done.returncode == 1  # the text
    expected = []
    for path, row in rows_of(done).items():
        if row["error"] is None:
            best = row["predictions"][0]
            assert (best["label"] == "unknown") == (best["probability"] < 0.5) == (best["index"] is None)
            expected.append((best["label"], Path(path).read_bytes()))
    found = [(name.partition("/")[0], (out / name).read_bytes()) for name in files_in(out)]
    assert sorted(found) == sorted(expected)
    assert {name for name, _ in found} > {"unknown"}
    assert {Path(name).name.replace(" (2)", "") for name in files_in(out)} == {
        "rocket.jpg",
        "chelsea.png",
        "coffee.png",
    }
    assert all((out / name).is_symlink() == link for name in files_in(out))
    before = files_in(out)
    assert here(*arguments).returncode == 1
    assert files_in(out) == before  # a run that is repeated adds nothing
    assert len(files_in(photos)) == 6  # and the images stay where they were


def test_below_the_threshold_the_answer_is_unknown_in_every_format_and_in_python(photos):
    clf = load(device="cpu")
    paths = [photos / name for name in ("chelsea.png", "coffee.png", "rocket.jpg")]
    best = {str(path): clf.predict(path, topk=1)[0] for path in paths}
    threshold = float(np.mean(sorted(p.probabilities[0] for p in best.values())[:2]))
    doubtful = min(best, key=lambda path: best[path].probabilities[0])
    for path, prediction in zip(best, clf.predict(paths, threshold=threshold), strict=True):
        if path != doubtful:
            assert len(prediction.labels) == 5 and prediction.labels[0] == best[path].labels[0]
            continue
        assert (prediction.labels, prediction.indices) == (("unknown",), (None,))
        assert prediction.probabilities == pytest.approx(best[path].probabilities)
        assert str(prediction).startswith(f"{path}: unknown ")
    arguments = ["predict", doubtful, "--precision=float32", f"--threshold={threshold}", "--topk=2"]
    assert here(*arguments, "--format=csv").stdout.decode().splitlines()[1].split(",")[1:4:2] == ["unknown", ""]
    assert b"  unknown " in here(*arguments, "--format=table").stdout
    with pytest.raises(ConfigError, match="threshold must lie between 0 and 1, not 2"):
        clf.predict(paths, threshold=2)


def test_nothing_is_overwritten_and_collisions_get_a_number(photos, tmp_path):
    label = load(device="cpu").predict(photos / "rocket.jpg")[0].labels[0]
    out = tmp_path / "sorted"
    (out / label).mkdir(parents=True)
    (out / label / "rocket.jpg").write_bytes(b"mine")
    (out / label / "rocket (2).jpg").symlink_to(tmp_path / "victim")
    here("predict", photos / "rocket.jpg", photos / "b" / "rocket.jpg", "--sort-into", out)
    assert (out / label / "rocket.jpg").read_bytes() == b"mine"
    assert not (tmp_path / "victim").exists()
    copies = [out / label / f"rocket ({number}).jpg" for number in (3, 4)]
    assert [copy.read_bytes() for copy in copies] == [(photos / "rocket.jpg").read_bytes()] * 2


def test_annotated_copies_have_the_picture_and_lines_below(photos, tmp_path):
    out = tmp_path / "saved"
    assert here("predict", photos, "--save", out, "--topk=2").returncode == 1
    assert files_in(out) == ["chelsea.png", "coffee.png", "rocket (2).jpg", "rocket (3).jpg", "rocket.jpg"]
    with Image.open(out / "chelsea.png") as copy, Image.open(photos / "chelsea.png") as original:
        assert copy.width == original.width and copy.height > original.height
        above = np.asarray(copy)[: original.height]
        np.testing.assert_array_equal(above, np.asarray(original))
        below = np.asarray(copy)[original.height :]
        assert len(np.unique(below.reshape(-1, 3), axis=0)) > 10  # text, and bars
    before = files_in(out)
    here("predict", photos, "--save", out, "--topk=2")
    assert files_in(out) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold", "nan"], "--threshold must lie between 0 and 1"),
        (["--link"], "--link is for --sort-into DIR"),
        (["--sort-into", "x", "--threshold", "2"], "--threshold must lie between 0 and 1"),
        (["--sort-into", "{photos}/sorted"], "lies within {photos}, which is being read"),
        (["--save", "{photos}"], "lies within {photos}, which is being read"),
        (["--save", "{photos}/rocket.jpg"], "is a file: give a folder"),
        (["--max-megapixels", "0"], "--max-megapixels must be more than 0"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_done(photos, arguments, message):
    done = here("predict", photos, *[argument.format(photos=photos) for argument in arguments])
    assert (done.returncode, done.stdout) == (2, b"")
    assert message.format(photos=photos) in done.stderr.decode() and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("verb", ["predict", "eval", "pack", "train"])
@pytest.mark.parametrize("limit", ["0", "-1", "nan"])
def test_a_size_that_is_none_is_refused_by_every_command(photos, verb, limit):
    out = () if verb in ("predict", "eval") else ("--out", photos / "run")
    done = here(verb, photos, f"--max-megapixels={limit}", *out)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"megapixels" in done.stderr and done.stderr.count(b"\n") == 1


def test_class_names_become_names_of_folders_each_its_own():
    labels = ["cat", "Cat", "a/b", "..", "", "con", "unknown", "é" * 300, "x\x1b"]
    names = folder_names(labels, ("unknown",))
    assert names[:7] == ["cat", "Cat (1)", "a_b", "class 3", "class 4", "class 5", "unknown (6)"]
    assert len(os.fsencode(names[7])) <= 200 and names[8] == "x_"
    assert len({name.casefold() for name in names}) == len(names)


def test_larger_images_than_allowed_are_refused(photos):
    done = here("predict", photos / "rocket.jpg", "--max-megapixels", "0.1", "--format=jsonl")
    (row,) = rows_of(done).values()
    assert "over the limit of 0.1" in row["error"] and done.returncode == 1


class Handler(BaseHTTPRequestHandler):
    """A site with a photograph, redirects, a page, and files that are too large or never end."""

    seen: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.seen.append(self.path)
        if self.path.startswith("/photo"):
            data = (SKIMAGE / "rocket.jpg").read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        elif self.path.startswith("/loop"):
            self.send_response(302)
            self.send_header("Location", "/loop?" + "x" * len(self.seen))
            self.end_headers()
        elif self.path == "/moved":
            self.send_response(301)
            self.send_header("Location", "/photo.jpg")
            self.end_headers()
        elif self.path == "/page":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!doctype html><html>hello</html>")
        elif self.path in ("/large", "/endless"):
            self.send_response(200)
            if self.path == "/large":
                self.send_header("Content-Length", str(10**12))
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"x" * 2**16)
            except OSError:  # the reader has left
                pass
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def site(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    Handler.seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_image_at_an_address_is_what_the_file_is(site, photos, tmp_path):
    url = f"{site}/photo.jpg?size=1"
    done = here("predict", url, "--format=jsonl", "--sort-into", tmp_path / "sorted")
    (row,) = rows_of(done).values()
    (expected,) = rows_of(here("predict", photos / "rocket.jpg", "--format=jsonl")).values()
    assert (done.returncode, row["path"], row["predictions"]) == (0, url, expected["predictions"])
    assert [Path(name).name for name in files_in(tmp_path / "sorted")] == ["photo.jpg"]
    done = here("predict", "-", "--format=jsonl", stdin=f"{site}/moved\n".encode())
    assert rows_of(done)[f"{site}/moved"]["predictions"] == expected["predictions"]
    assert load(device="cpu").predict(url)[0].error is None


def test_what_is_at_an_address_is_bounded(site, monkeypatch):
    monkeypatch.setattr(web_images, "MAX_BYTES", 10**6)
    for path, reason in {
        "/loop": "redirects",
        "/large": "over the limit",
        "/endless": "over the limit",
        "/gone": "404",
        "/page": "not an image",
    }.items():
        (row,) = rows_of(here("predict", site + path, "--format=jsonl")).values()
        assert reason in row["error"] and row["predictions"] == [], path
    monkeypatch.setattr(web_images, "MAX_BYTES", 10**12)
    monkeypatch.setattr(web_images, "SECONDS", 0.2)
    with pytest.raises(ImageError, match="not received within"):
        WebImage(f"{site}/endless").read()


@pytest.mark.parametrize("way", ["flag", "variable", "python"])
def test_offline_no_address_is_fetched(site, monkeypatch, way):
    if way == "variable":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if way == "python":
        error = load(device="cpu", offline=True).predict(f"{site}/photo.jpg")[0].error
    else:
        done = here("predict", f"{site}/photo.jpg", "--format=jsonl", *["--offline"] * (way == "flag"))
        assert done.returncode == 1
        ((_, row),) = rows_of(done).items()
        error = row["error"]
    assert "not fetched" in error and Handler.seen == []
