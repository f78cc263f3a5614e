"""``seresnet search``: the images of a file of embeddings that are the most similar to given ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from seresnet.common.text import csv_text, printable
from seresnet.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from seresnet.retrieval.search import Hit

SHEET_TILES = 200  # on a contact sheet, at most


def search(
    vectors: Annotated[Path, Parameter(help="A file that seresnet embed wrote.")],
    /,
    *images: Annotated[str, Parameter(help="Query images: files, folders, globs or http(s) URLs.")],
    topk: Annotated[int, Parameter(help="Number of similar images for each query.")] = 12,
    sheet: Annotated[
        Path | None, Parameter(help="Draw each query with its similar images in a row (.png, .jpg or .webp).")
    ] = None,
    model: Annotated[str | None, Parameter(help="The model of the embeddings (default: named in the file).")] = None,
    device: Annotated[str | None, Parameter(help="cpu, cuda, cuda:1 (default: a GPU if there is one).")] = None,
    offline: Annotated[bool, Parameter(help="Do not access the network.")] = False,
) -> int:
    """Find the images that are the most similar to given ones, by the cosine similarity of their embeddings.

    Every embedding is compared, so that none is missed. Rows of CSV on stdout: query, path, similarity. The exit code
    is 1 if a query could not be read.
    """
    from seresnet.cli.output import check_out
    from seresnet.cli.progress import ImageProgress, announce
    from seresnet.inference.classifier import load
    from seresnet.inference.contact_sheet import FORMATS
    from seresnet.inference.images import each_source
    from seresnet.retrieval.search import search as find
    from seresnet.retrieval.vectors import open_vectors

    if not images:
        raise ConfigError("no images: give query images behind the file of embeddings")
    if sheet is not None:
        if sheet.suffix.lower() not in FORMATS:
            raise ConfigError(f"--sheet {sheet}: give a name that ends in {', '.join(FORMATS)}")
        check_out(sheet, "--sheet")
    known = open_vectors(vectors)
    clf = load(model or known.model, device=device, offline=offline or None)
    announce(clf, model or known.model)
    with ImageProgress(bar=False) as progress:
        queries = []
        for batch in clf.embedded(each_source(images, offline or None)):
            for row in batch:
                progress.advance(row.path, row.error)
                if row.features is not None:
                    queries.append((row.path or "image", row.features))
    results: list[tuple[str, list[Hit]]] = []
    if queries:
        import numpy as np

        found = find(known, np.stack([features for _, features in queries]), topk)
        results = [(path, hits) for (path, _), hits in zip(queries, found, strict=True)]
    _write(results)
    if sheet is not None and results:
        _draw(results, sheet, f"similar images in {vectors.name}", topk)
    return 1 if progress.unreadable else 0


def _write(results: Sequence[tuple[str, list[Hit]]]) -> None:
    """Print a row for each query and similar image."""
    shown = printable if sys.stdout.isatty() else str
    sys.stdout.write(csv_text([["query", "path", "similarity"]]))
    for query, hits in results:
        sys.stdout.write(csv_text([shown(query), shown(hit.path), f"{hit.similarity:.6f}"] for hit in hits))


def _draw(results: Sequence[tuple[str, list[Hit]]], sheet: Path, heading: str, topk: int) -> None:
    """Draw a row of tiles for each query: the query, then its similar images."""
    from seresnet.data.decode import decode
    from seresnet.inference.contact_sheet import contact_sheet

    columns = min(topk, max(len(hits) for _, hits in results)) + 1

    def tile(path: str, label: str, value: float) -> tuple[Image | None, str, list[tuple[str, float]]]:
        try:
            return decode(path), printable(Path(path).name), [(label, value)]
        except ImageError as error:
            return None, printable(Path(path).name), [(str(error), 0.0)]

    def tiles() -> Iterator[tuple[Image | None, str, list[tuple[str, float]]]]:
        for query, hits in results[: max(1, SHEET_TILES // columns)]:
            yield tile(query, "query", 1.0)
            yield from (tile(hit.path, "similarity", hit.similarity) for hit in hits)

    contact_sheet(tiles(), sheet, columns, heading=heading)
    print(f"contact sheet: {sheet}", file=sys.stderr)
