"""Pack labelled images into WebDataset shards: few large files in place of millions of small ones.

Which image goes where is decided before the first is read, so the same images and settings give the same bytes, and a
run that was interrupted continues with the missing shards. A shard gets its name when it is complete and on disk.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from seresnet.common.files import atomic_file, write_text
from seresnet.data.dataset import ImageSet, Sample, StoredImage, Stream
from seresnet.data.decode import MAX_PIXELS, decode, encoded
from seresnet.data.open_dataset import open_splits
from seresnet.data.parallel import ordered_map
from seresnet.data.shard_files import PLAN, index_path, read_json
from seresnet.data.shards import CLASS_NAMES
from seresnet.data.sniff import HEAD_BYTES, identify
from seresnet.errors import ConfigError, DataError, ImageError

SHARD_SIZE = 5000  # images
JPEG_QUALITY = 95  # with full colour resolution: what is left to lose is below what a random crop's resize changes
SEED = 0  # of the order of the training images

_SUFFIXES = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
    "AVIF": "avif",
    "PPM": "ppm",
}
_OURS = re.compile(r"(train|validation|test)-\d{6}\.(tar|index\.json)")

Progress = Callable[[str, str | None], object]  # an image, and the reason where it could not be read
Job = tuple[str, int, Sample]  # the name of its shard, its number, and an image
Converted = tuple[Job, str, bytes, str | None]  # with suffix and bytes, or the reason why there are none
Index = dict[str, Any]


@dataclass
class Packed:
    """What came of it: counts over all shards, also those that an earlier run wrote, and the images left out."""

    shards: int = 0
    images: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)  # image, reason


def pack(
    data: str | PathLike[str] | dict[str, ImageSet],
    out: str | PathLike[str],
    size: int | None = None,
    shard_size: int = SHARD_SIZE,
    workers: int = 1,
    exist_ok: bool = False,
    progress: Progress | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Packed:
    """Write the images of ``data``, what `open_splits` takes or returns, into shards of ``shard_size`` images.

    ``size``: shorter side, in pixels, of images that are larger; these are turned upright and written as JPEG. All
    others keep their bytes. Every image is decoded; what cannot be read, or has more than ``max_pixels``, is left out
    and named, as is a shard's place for it. Training images are shuffled, so that programs that read shards from front
    to back see a mixture. ``exist_ok`` goes on with an interrupted run of the same images and settings, or replaces
    another one. Raises DataError for data without end or number, ConfigError for ``out`` or a number that will not do.
    """
    for name, value, least in (("size", size, 8), ("shard_size", shard_size, 1), ("workers", workers, 0)):
        if value is not None and value < least:
            raise ConfigError(f"{name} is {value}: give {least} or more")
    out, splits = Path(out), data if isinstance(data, dict) else open_splits(data)
    jobs = [job for split, images in splits.items() for job in _jobs(split, images, shard_size)]
    names = list(dict.fromkeys(name for name, _, _ in jobs))
    classes = next(iter(splits.values())).classes
    plan = {"size": size, "shard_size": shard_size, "max_pixels": max_pixels, "images": _digest(splits)}
    _prepare(out, plan | {"shards": names}, classes, exist_ok)
    written = {name: index for name in names if (index := _read_index(out / name))}

    def convert(job: Job) -> Converted:
        try:
            return job, *_converted(job[2][0], size, max_pixels), None
        except ImageError as error:
            return job, "", b"", str(error)

    if progress:
        for image, reason in (row for index in written.values() for row in index["skipped"]):
            progress(image, reason)
    todo = [job for job in jobs if job[0] not in written]
    converted = ordered_map(convert, todo, workers, ahead=4 * max(1, workers))
    for name, group in groupby(converted, key=lambda item: item[0][0]):
        written[name] = _write_shard(out / name, group, classes, progress)
    packed = Packed(len(names))
    for name in names:
        packed.images += len(written[name]["images"])
        packed.skipped += [(image, reason) for image, reason in written[name]["skipped"]]
    return packed


def _jobs(split: str, images: ImageSet, shard_size: int) -> Iterator[Job]:
    """Deal the images of a split out to shards; those of train in a random order that is always the same."""
    if isinstance(images.samples, Stream):
        raise DataError(f"{images}: a stream cannot be dealt out to shards; leave out stream")
    order = list(range(len(images.samples)))
    if split == "train":
        random.Random(SEED).shuffle(order)
    for number, position in enumerate(order):
        yield f"{split}-{number // shard_size:06d}.tar", number, images.samples[position]


def _digest(splits: dict[str, ImageSet]) -> str:
    """Return a hash of what is to be packed, with the size and time of each file."""
    digest = hashlib.sha256()
    for split, images in splits.items():
        digest.update(f"{split}\0{images.fingerprint()}".encode())
        for image, _ in images.samples:
            if isinstance(image, Path):
                status = image.stat() if image.exists() else None
                digest.update(f"\0{(status.st_size, status.st_mtime_ns) if status else None}".encode())
    return digest.hexdigest()


def _prepare(out: Path, plan: dict[str, Any], classes: Sequence[str], exist_ok: bool) -> None:
    """Make the folder ready: empty, or with shards of the very same plan."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; give --out a folder")
    if any("\n" in name for name in classes):
        raise DataError("the name of a class has a line break in it; rename the class")
    present = list(out.iterdir()) if out.is_dir() else []
    same = read_json(out / PLAN) == plan
    if present and not exist_ok:
        what = (
            "has shards of these images; add --exist-ok to finish them" if same else "is not empty; give --out another"
        )
        raise ConfigError(f"{out} {what}{'' if same else ' folder, or --exist-ok to replace the shards in it'}")
    for path in present:
        name = path.name
        half = name.endswith(".tmp") and name.startswith(".") and _OURS.match(name[1:])
        if half or (not same and (_OURS.fullmatch(name) or name in (PLAN, CLASS_NAMES))):
            path.unlink()
    write_text(out / CLASS_NAMES, "".join(f"{name}\n" for name in classes))
    write_text(out / PLAN, json.dumps(plan, indent=1) + "\n")


def _converted(image: Path | StoredImage, size: int | None, max_pixels: int) -> tuple[str, bytes]:
    """Return the suffix and the bytes that an image goes into its shard with. Raises ImageError."""
    data = encoded(image)
    picture = decode(data, max_pixels=max_pixels)
    if size is None or min(picture.size) <= size:
        return _suffix(identify(data[:HEAD_BYTES])), data
    width, height = (round(side * size / min(picture.size)) for side in picture.size)
    buffer = io.BytesIO()
    try:
        resized = picture.resize((width, height), Image.Resampling.LANCZOS)
        resized.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    except (OSError, MemoryError) as error:
        raise ImageError(f"cannot be written as {width} x {height} JPEG ({error})") from error
    return "jpg", buffer.getvalue()


def _suffix(format_name: str) -> str:
    return _SUFFIXES.get(format_name, format_name.lower())


def _write_shard(path: Path, group: Iterable[Converted], classes: Sequence[str], progress: Progress | None) -> Index:
    """Write one shard and then its index, which marks it as complete; return the index."""
    rows: list[Any] = []
    skipped: list[Any] = []
    with atomic_file(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for (_, number, (image, target)), suffix, data, error in group:
            if error is None:
                key = f"{number:08d}_{_plain(image)}"
                rows.append([f"{key}.{suffix}", tar.offset + tarfile.BLOCKSIZE, len(data), target])
                _add(tar, f"{key}.{suffix}", data)
                if isinstance(target, int):
                    _add(tar, f"{key}.cls", str(target).encode())
                else:
                    _add(tar, f"{key}.json", json.dumps({"labels": [classes[i] for i in target]}).encode())
            else:
                skipped.append([str(image), error])
            if progress:
                progress(str(image), error)
    index = {"bytes": path.stat().st_size, "images": rows, "skipped": skipped}
    write_text(index_path(path), json.dumps(index))
    return index


def _read_index(path: Path) -> Index | None:
    """Return the index of a complete shard, or None."""
    index = read_json(index_path(path)) if path.is_file() else None
    if not isinstance(index, dict) or index.get("bytes") != path.stat().st_size:
        return None
    images, skipped = index.get("images"), index.get("skipped")
    pairs = isinstance(skipped, list) and all(isinstance(row, list) and len(row) == 2 for row in skipped)
    return index if isinstance(images, list) and pairs else None


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file that anyone may read, of no owner and no time, so that the same images give the same shard."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _plain(image: Path | StoredImage) -> str:
    """Return a name for the key: letters that every system and program takes, and no dot, which would end the key."""
    stem = PurePosixPath(image.key if isinstance(image, StoredImage) else image.name).name.partition(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:64]
