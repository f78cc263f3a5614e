"""The names of the 1,000 ImageNet classes: WordNet ids and lemmas (WordNet 3.0, Princeton University)."""

from __future__ import annotations

from collections import Counter
from functools import cache
from importlib.resources import files

IMAGENET_1K = 1000  # classes


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
