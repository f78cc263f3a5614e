"""Lists as people save them: Excel, Windows, pandas and a text editor, from a file and on stdin."""

import io
from pathlib import Path

import pytest
from PIL import Image

from seresnet.data.open_dataset import open_data, open_labelled
from seresnet.data.paths import expand
from seresnet.errors import DataError

NAMES = [f"{name}/{i}.png" for name in ("cat", "dog") for i in (1, 2)]
ROWS = [("path", "label"), *((name, name[:3]) for name in NAMES)]


def text(delimiter: str = ",", end: str = "\n", rows=ROWS) -> str:
    return "".join(delimiter.join(row) + end for row in rows)


FORMS = {
    "utf-16": text().encode("utf-16"),
    "utf-16-le without mark": text().encode("utf-16-le"),
    "utf-16-be without mark": text().encode("utf-16-be"),
    "utf-16 of excel": text("\t", "\r\n").encode("utf-16"),
    "byte order mark": text(end="\r\n").encode("utf-8-sig"),
    "semicolons": text(";").encode(),
    "tabs": text("\t").encode(),
    "bars": text("|").encode(),
    "sep line": ("sep=;\r\n" + text(";", "\r\n")).encode(),
    "old mac": text(end="\r").encode(),
    "quoted": text(rows=[tuple(f'"{cell}"' for cell in row) for row in ROWS]).encode(),
    "spaces": text(" , ", rows=[(" Path ", " LABEL"), *ROWS[1:]]).encode(),
    "backslashes": text().replace("/", "\\").encode(),
    "empty lines": text(end="\n\n").encode(),
    "cells at the end": text(",", ",,\n").encode(),
    "dots": text().replace("\ncat/", "\n./cat//").encode(),
    "index of pandas": text(rows=[(str(i - 1) if i else "", *row) for i, row in enumerate(ROWS)]).encode(),
    "quotes within": text(rows=[*ROWS, ('"cat/a, ""b"".png"', "cat")]).encode(),
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in (*NAMES, 'cat/a, "b".png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (200, 30, 30)).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("form", FORMS)
def test_a_list_in_every_form_is_the_same(images, form, monkeypatch):
    (images / "list.csv").write_bytes(FORMS[form])
    found = open_data(images / "list.csv").train
    assert found.classes == ("cat", "dog")
    assert [path.relative_to(images).as_posix() for path, _ in found.samples][:4] == NAMES
    assert [target for _, target in found.samples][:4] == [0, 0, 1, 1]
    monkeypatch.chdir(images)
    stdin = io.TextIOWrapper(io.BytesIO(FORMS[form]))
    assert [Path(str(path)).as_posix() for path in expand(["-"], stdin)][:4] == NAMES


@pytest.mark.parametrize("code", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_plain_lines_on_stdin_in_every_encoding(images, code, end, monkeypatch):
    monkeypatch.chdir(images)
    lines = "".join(name + end for name in NAMES).encode(code)
    assert list(expand(["-"], io.TextIOWrapper(io.BytesIO(lines)))) == NAMES


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["3", "3.0", "03", "4"], ("3", "4")),
        (["1.0", "2.0", "10.0", "1"], ("1", "2", "10")),
        (["01", "02", "10", "01"], ("01", "02", "10")),
        (["1", "1.5", "2", "2"], ("1", "1.5", "2")),
        (["0", "00", "a", "b"], ("0", "00", "a", "b")),
        (["caf\u00e9", "cafe\u0301", "tea", "tea"], ("caf\u00e9", "tea")),
        (["cls10", "cls2", "cls", "cls1"], ("cls", "cls1", "cls2", "cls10")),
    ],
)
def test_labels_that_are_numbers(images, labels, classes):
    rows = "".join(f"{name},{label}\n" for name, label in zip(NAMES, labels, strict=True))
    (images / "list.csv").write_text("path,label\n" + rows, encoding="utf-8")
    assert open_data(images / "list.csv").train.classes == classes


@pytest.mark.parametrize("negative", ["-1", "-1.0", " -1 ", '"-1"'])
@pytest.mark.parametrize("column", ["label", "labels"])
def test_a_negative_label_among_the_training_rows_is_refused(images, negative, column):
    (images / "list.csv").write_text(f"path,{column}\n{NAMES[0]},0\n{NAMES[1]},1\n{NAMES[2]},{negative}\n")
    with pytest.raises(DataError, match="-1"):
        open_data(images / "list.csv")


def test_hidden_labels_of_a_test_split_are_left_out_and_named(images, caplog):
    rows = [f"{NAMES[0]},0,train", f"{NAMES[2]},1,train", f"{NAMES[1]},0,val", f"{NAMES[3]},-1,test"]
    (images / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    assert open_labelled(images / "list.csv").split == "validation"
    assert "test split is left out" in caplog.text


@pytest.mark.parametrize(
    ("rows", "line", "seen"),
    [
        (["cat/1.png,cat", "dog/1.png,"], 3, "no label"),
        (["cat/1.png,cat", ",dog"], 3, "no path"),
        (["cat/1.png,cat", "dog/1.png,dog,x"], 3, "3 cells"),
        (["cat/1.png,cat", "../dog/1.png,dog"], 3, "leads out"),
        (["cat/1.png,cat", "C:\\dog\\1.png,dog"], 3, "Windows"),
        (["cat/1.png,cat", "", "cat/1.png,dog"], 4, "listed twice"),
    ],
)
def test_a_refusal_names_the_line_and_what_was_seen(images, rows, line, seen):
    (images / "list.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(DataError, match=f"line {line}: .*{seen}"):
        open_data(images / "list.csv")


def test_a_list_without_a_header_and_labels_that_may_be_one(images, caplog):
    rows = "".join(f"{name},{label}\n" for name, label in zip(NAMES, ("Cat", "cat", "dog", "dog"), strict=True))
    (images / "list.csv").write_text(rows)
    with pytest.raises(DataError, match="is the header missing"):
        open_data(images / "list.csv")
    (images / "list.csv").write_text("path,label\n" + rows)
    assert open_data(images / "list.csv").train.classes == ("Cat", "cat", "dog")
    assert "'Cat' and 'cat' differ in case" in caplog.text
