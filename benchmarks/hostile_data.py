"""Cases for `hostile.py`: images, and the lists, indexes and archives that name them, damaged and crafted."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

FORMATS = {
    "JPEG": [{}, {"progressive": True}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"}],
    "PNG": [{}, {"interlace": 1}],
    "WEBP": [{}, {"lossless": True}],
    "GIF": [{}],
    "BMP": [{}],
    "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}, {"compression": "tiff_deflate"}],
    "AVIF": [{}],
    "PPM": [{}],
}
MODES = {"JPEG": ("RGB", "L", "CMYK"), "PNG": ("RGB", "RGBA", "P", "1", "I;16"), "GIF": ("P",), "BMP": ("RGB", "1")}
SIZES = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f")
_images: list[bytes] = []


def is_line(text: str) -> bool:
    """Return whether a message is one line of characters that are harmless in a terminal; any kind of space is."""
    return len(text) <= 1000 and all(char.isprintable() or unicodedata.category(char) == "Zs" for char in text)


def original_images() -> list[bytes]:
    """Return one small picture in each format, mode and compression."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    found = []
    for kind, options in FORMATS.items():
        for mode in MODES.get(kind, ("RGB", "L")):
            picture = Image.fromarray(pixels).convert("L" if mode == "I;16" else mode).convert(mode)
            for option in options:
                buffer = io.BytesIO()
                picture.save(buffer, kind, **option)
                found.append(buffer.getvalue())
    return found


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return data with bytes changed, cut out, put in again, or with large numbers where sizes may be."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        at = rng.randrange(min(len(changed), rng.choice((64, 512, 2**30))))
        kind = rng.random()
        if kind < 0.5:
            changed[at] = rng.randrange(256)
        elif kind < 0.65:
            changed[at : at + 4] = rng.choice(
                (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f")
            )
        elif kind < 0.8:
            changed[at:at] = changed[at : at + rng.randrange(1, 64)] * rng.choice((1, 3, 200))
        elif len(changed) > at + 2:
            del changed[at + 1 : at + rng.randrange(2, 300)]
    return bytes(changed)


def write_image(folder: Path, rng: random.Random) -> Path:
    """Write one damaged image."""
    if not _images:
        _images.extend(original_images())
    path = folder / "image"
    path.write_bytes(damaged(rng.choice(_images), rng))
    return path


def open_image(path: Path) -> object:
    """Decode it as every command does."""
    from seresnet.data.decode import decode

    return decode(path).size


def write_index(folder: Path, rng: random.Random) -> Path:
    """Write one damaged list, shard with an index, or archive."""
    return rng.choice((_list, _shard, _zip, _tar))(folder, rng)


def _list(folder: Path, rng: random.Random) -> Path:
    (folder / "a.png").write_bytes(b"x")
    rows = [
        f"a.png{sep}{label}{sep}train" for sep, label in ((",", "cat"), (",", '"dog'), (";", "-1"), ("\t", "9" * 5000))
    ]
    text = "path,label,split\n" + "\n".join(rng.choices(rows, k=rng.randrange(1, 20)))
    codec = rng.choice(("utf-8", "utf-8-sig", "utf-16", "utf-16-le"))
    path = folder / rng.choice(("list.csv", "list.tsv", "list.parquet"))
    data = text.encode(codec) + rng.choice((b"", b"\0" * 3_000_000, b"x" * 3_000_000, b'"' * 99))
    path.write_bytes(damaged(data, rng))
    return path


def _tar_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _shard(folder: Path, rng: random.Random) -> Path:
    members = {
        "0.jpg": b"x",
        "0.cls": b"0",
        "1.jpg": b"x",
        "1.json": b'{"label": 1}',
        "2.cls": b"9" * rng.choice((1, 9, 9999)),
    }
    data = _tar_bytes(dict(rng.sample(sorted(members.items()), rng.randrange(2, 6))))
    path = folder / "train-000000.tar"
    path.write_bytes(damaged(data, rng) if rng.random() < 0.5 else data)
    rows = [
        [
            "0.jpg",
            rng.choice((512, -1, 2**70, "x")),
            rng.choice((1, -5, 2**70, 1.5)),
            rng.choice((0, -1, None, [0], {})),
        ]
    ]
    size = rng.choice((path.stat().st_size, 1, "1"))
    index = rng.choice(
        ({"bytes": size, "images": rows}, [], {"bytes": size}, {"bytes": size, "images": {"a": 1}}, None)
    )
    text = rng.choice((json.dumps(index), "[" * 200_000, "{", "9" * 5000))
    (folder / "train-000000.index.json").write_text(text)
    (folder / "pack.json").write_text(rng.choice(("[]", '{"shards": 3}', '{"shards": [null]}', "[" * 200_000, "{}")))
    (folder / "classnames.txt").write_bytes(rng.choice((b"", b"cat\ndog\n", b"\xff\xfe\0", b"\n" * 1000)))
    return path


def _zip(folder: Path, rng: random.Random) -> Path:
    path = folder / "data.zip"
    with zipfile.ZipFile(path, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as bag:
        for name in ("cat/1.jpg", "dog/1.jpg", "..\\x.jpg", "a\\b.jpg", "C:\\x.jpg", "/x.jpg"):
            if rng.random() < 0.6:
                bag.writestr(name, bytes(rng.choice((0, 9, 200_000))))
    path.write_bytes(damaged(path.read_bytes(), rng) if rng.random() < 0.8 else path.read_bytes())
    return path


def _tar(folder: Path, rng: random.Random) -> Path:
    import bz2
    import gzip
    import lzma

    names = [
        rng.choice(("cat", "dog", "x/../..", "train", "\0", "y" * 300)) + f"/{i}.jpg"
        for i in range(rng.choice((2, 30)))
    ]
    data = _tar_bytes(dict.fromkeys(names, b""))
    if rng.random() < 0.5:
        data = damaged(data, rng)
    suffix, pack = rng.choice(
        (("tar.gz", gzip.compress), ("tar.xz", lzma.compress), ("tar.bz2", bz2.compress), ("tar", bytes))
    )
    data = pack(data)
    path = folder / f"data.{suffix}"
    path.write_bytes(damaged(data, rng) if rng.random() < 0.5 else data)
    return path


def open_index(path: Path) -> object:
    """Open it as data to evaluate on, and as images to predict."""
    from itertools import islice

    from seresnet.data.open_dataset import open_labelled
    from seresnet.data.paths import expand
    from seresnet.errors import SeresnetError

    os.environ["SERESNET_CACHE"] = str(path.parent / "cache")
    shutil.rmtree(path.parent / "cache", ignore_errors=True)
    try:
        list(islice(expand([path]), 100))
    except SeresnetError as error:
        if not is_line(str(error)):
            raise ValueError(f"not one printable line: {str(error)[:80]!r}") from None
    return open_labelled(path).classes
