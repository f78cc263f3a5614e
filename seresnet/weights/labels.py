"""Class names: those of ImageNet-1k (WordNet ids and lemmas, WordNet 3.0, Princeton University), and from files."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from importlib.resources import files
from pathlib import Path

from seresnet.common.files import read_bounded
from seresnet.common.text import one_line
from seresnet.errors import ConfigError

IMAGENET_1K = 1000  # classes
MAX_BYTES = 16_000_000  # of a file of names; the 12,000 of ImageNet-12k take 0.5 MB
WORDNET = re.compile(r"n\d{8}(\s|$)")


@cache
def imagenet_1k() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return WordNet ids and readable names, both in class order and each unique.

    A name is the first lemma ("tench"), or all of them where two classes share the first ("maillot, tank suit").
    """
    text = files("seresnet.weights").joinpath("imagenet_1k.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines()]
    firsts = [lemmas.split(", ")[0] for _, lemmas in rows]
    shared = Counter(first.lower() for first in firsts)  # a Cardigan is a dog, a cardigan is knitted
    names = [lemmas if shared[first.lower()] > 1 else first for (_, lemmas), first in zip(rows, firsts, strict=True)]
    return tuple(wordnet_id for wordnet_id, _ in rows), tuple(names)


def read_labels(given: str) -> tuple[list[str], list[str]]:
    """Return class names in class order, and their WordNet ids where every line begins with one.

    ``given`` is "imagenet-1k", or a text file with a name a line, or a JSON file: a list of names, or names by index
    ({"0": "tench", ...}). Raises ConfigError.
    """
    if given == "imagenet-1k":
        known_ids, known_names = imagenet_1k()
        return list(known_names), list(known_ids)
    path = Path(given)
    try:
        if not path.is_file():
            raise ConfigError(f"labels {given}: no such file; give a text file with a name a line, or imagenet-1k")
        text = _decoded(read_bounded(path, MAX_BYTES))
    except (OSError, ValueError) as error:
        raise ConfigError(f"labels {given}: cannot be read ({one_line(error)})") from None
    names = _from_json(text, given) if text.lstrip()[:1] in ("[", "{") else _from_lines(text)
    if not names or not all(names):
        empty = names.index("") + 1 if names else 0
        raise ConfigError(f"labels {given}: {f'name {empty} is empty' if names else 'holds no names'}")
    if all(WORDNET.match(name) for name in names):
        split = [name.split(None, 1) for name in names]
        return [parts[-1] for parts in split], [parts[0] for parts in split]
    return names, []


def _decoded(data: bytes) -> str:
    """Return text in UTF-8, or in UTF-16 where it begins with its byte order mark."""
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return data.decode(encoding)


def _from_lines(text: str) -> list[str]:
    return [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []


def _from_json(text: str, given: str) -> list[str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(f"labels {given}: no readable JSON") from None
    if isinstance(found, dict):
        try:
            by_index = {int(key): name for key, name in found.items()}
        except ValueError:
            by_index = {}
        if sorted(by_index) != list(range(len(found))):
            raise ConfigError(f"labels {given}: the keys must be the indexes 0, 1, 2, ... of the classes")
        found = [by_index[index] for index in range(len(by_index))]
    if not all(isinstance(name, str) for name in found):
        raise ConfigError(f"labels {given}: every name must be text")
    return [name.strip() for name in found]
