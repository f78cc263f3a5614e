"""``seresnet predict``: classify images and stream the results."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from seresnet.cli.arguments import STDIN
from seresnet.common.text import printable
from seresnet.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

    from seresnet.cli.progress import ImageProgress
    from seresnet.inference.classifier import Classifier
    from seresnet.inference.prediction import Prediction

SHEET_IMAGES = 48  # on a contact sheet, at most
SHEET_TYPES = (".png", ".jpg", ".jpeg", ".webp")
TABLE_PEEK = 32  # rows that decide how wide the columns of a table are


def predict(
    *sources: Annotated[
        str,
        Parameter(help="Image files, folders (searched recursively), globs, http(s) URLs, or - for a list on stdin."),
    ],
    model: Annotated[
        str | None, Parameter(help="A name (see seresnet models), a directory, a file, or hf-hub:user/repo.")
    ] = None,
    labels: Annotated[
        str | None, Parameter(help="Class names in place of the model's: a file with one a line, or imagenet-1k.")
    ] = None,
    topk: Annotated[int, Parameter(help="Number of classes per image.")] = 5,
    format: Annotated[Literal["table", "json", "jsonl", "csv"], Parameter(help="Output format.")] = "table",
    out: Annotated[
        Path | None, Parameter(help="Write the results to this file instead of stdout (FILE.*.partial until complete).")
    ] = None,
    spreadsheet: Annotated[
        bool, Parameter(help="CSV: put ' before cells that begin with = + - @, so that spreadsheets run no formula.")
    ] = False,
    sheet: Annotated[
        Path | None, Parameter(help=f"Draw the first {SHEET_IMAGES} images with their classes (.png, .jpg or .webp).")
    ] = None,
    save: Annotated[Path | None, Parameter(help="Write a copy of each image, with its classes, here.")] = None,
    sort_into: Annotated[Path | None, Parameter(help="Copy each image into a folder per class in this folder.")] = None,
    link: Annotated[bool, Parameter(help="With --sort-into: symbolic links in place of copies.")] = False,
    threshold: Annotated[
        float | None, Parameter(help="Answer unknown where the best probability is below this, 0 to 1.")
    ] = None,
    batch_size: Annotated[int | None, Parameter(help="Batch size (default: chosen for the device).")] = None,
    device: Annotated[str | None, Parameter(help="cpu, cuda, cuda:1 (default: a GPU if there is one).")] = None,
    engine: Annotated[
        Literal["auto", "openvino", "onnxruntime", "torch", "torch-compile"],
        Parameter(help="Inference engine (auto: openvino on CPUs, torch on GPUs)."),
    ] = "auto",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8"],
        Parameter(help="Numeric precision (auto: the fastest that needs no calibration)."),
    ] = "auto",
    calibration: Annotated[
        Path | None, Parameter(help="Representative images for int8 calibration (about 300 are enough).")
    ] = None,
    max_megapixels: Annotated[float | None, Parameter(help="Refuse larger images.")] = None,
    workers: Annotated[int | None, Parameter(help="Threads that decode images (default: one per core).")] = None,
    offline: Annotated[bool, Parameter(help="Do not access the network.")] = False,
) -> int:
    """Classify images, from files, folders, globs, http(s) URLs, or a list on stdin.

    Results go to stdout, one per image and in order. The exit code is 1 if an image could not be read.
    """
    from seresnet.cli.output import check_out
    from seresnet.cli.progress import ImageProgress, announce
    from seresnet.cli.streams import check_stdout
    from seresnet.data.decode import pixel_limit
    from seresnet.inference.classifier import DEFAULT_MODEL, load
    from seresnet.inference.images import each_source

    if not sources:
        raise ConfigError("no images: give files, folders or globs, or - for a list of files on stdin")
    given = ["-" if source == STDIN else source for source in sources]
    if out is None:
        check_stdout()
    for flag, path in (("--out", out), ("--sheet", sheet)):
        if path is not None:
            check_out(path, flag)
    _check(given, sheet, save, sort_into, link, threshold)
    max_pixels = pixel_limit(max_megapixels)
    clf = load(
        model or DEFAULT_MODEL,
        engine=engine,
        precision=precision,
        device=device,
        offline=offline or None,
        calibration=calibration,
        labels=labels,
    )
    clf.max_pixels = max_pixels
    announce(clf, model)
    images = Images(each_source(given, offline or None, sys.stdin))
    predictions = clf.stream(images, topk, batch_size, workers, threshold)
    drawn: list[tuple[Any, Prediction]] = []
    actions = _actions(clf, drawn if sheet else None, save, sort_into, link, threshold)
    countable = None if "-" in given else lambda: sum(1 for _ in each_source(given, True))
    with ImageProgress(bar=out is not None or not sys.stdout.isatty(), count=countable) as progress:
        rows = _with_actions(predictions, images, actions)
        _write(rows, _Output(format, min(topk, clf.num_classes), out, spreadsheet), progress)
    print(progress.summary(), file=sys.stderr)
    if sheet is not None and drawn:
        _draw(drawn, sheet, clf.model_name, clf.max_pixels)
    return 1 if progress.unreadable else 0


def _check(
    given: list[str],
    sheet: Path | None,
    save: Path | None,
    sort_into: Path | None,
    link: bool,
    threshold: float | None,
) -> None:
    """Raise ConfigError for settings that do not go together, before anything is loaded."""
    from seresnet.inference.prediction import check_threshold

    if sheet is not None and sheet.suffix.lower() not in SHEET_TYPES:
        raise ConfigError(f"--sheet {sheet}: give a name that ends in {', '.join(SHEET_TYPES)}")
    if sort_into is None and link:
        raise ConfigError("--link is for --sort-into DIR: give it too")
    check_threshold(threshold, "--threshold")
    for flag, folder in (("--sort-into", sort_into), ("--save", save)):
        if folder is None:
            continue
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{flag} {folder} is a file: give a folder")
        inside = [source for source in given if source != "-" and _is_within(folder, Path(source))]
        if inside:
            raise ConfigError(f"{flag} {folder} lies within {inside[0]}, which is being read: give another folder")


def _is_within(folder: Path, source: Path) -> bool:
    try:
        return source.is_dir() and folder.resolve().is_relative_to(source.resolve())
    except (OSError, ValueError):  # a name that is too long, or holds a null byte
        return False


class Images:
    """The images that are being read, each kept until its prediction is there."""

    def __init__(self, sources: Iterator[Any]) -> None:
        self._sources = sources
        self._waiting: deque[Any] = deque()

    def __iter__(self) -> Iterator[Any]:
        for source in self._sources:
            self._waiting.append(source)
            yield source

    def next_predicted(self) -> Any:
        """Return the image of the next prediction; predictions come in the order of the images."""
        return self._waiting.popleft()


Action = Callable[[Any, "Prediction"], object]


def _actions(
    clf: Classifier,
    drawn: list[tuple[Any, Prediction]] | None,
    save: Path | None,
    sort_into: Path | None,
    link: bool,
    threshold: float | None,
) -> list[Action]:
    """Return what is done with each image and its prediction besides writing its row."""
    actions: list[Action] = []
    if drawn is not None:
        actions.append(lambda *predicted: drawn.append(predicted) if len(drawn) < SHEET_IMAGES else None)
    if sort_into is not None:
        from seresnet.inference.sort import ImageSorter

        actions.append(ImageSorter(sort_into, clf.labels, threshold is not None, link).put)
    if save is not None:
        from seresnet.inference.annotate import AnnotatedCopies

        actions.append(AnnotatedCopies(save, clf.max_pixels).put)
    return actions


def _with_actions(predictions: Iterable[Prediction], images: Images, actions: list[Action]) -> Iterator[Prediction]:
    for prediction in predictions:
        source = images.next_predicted()
        for action in actions:
            action(source, prediction)
        yield prediction


@dataclass(frozen=True)
class _Output:
    """Where results go, and in which form."""

    format: str
    topk: int
    out: Path | None
    spreadsheet: bool


def _write(predictions: Iterator[Prediction], output: _Output, progress: ImageProgress) -> None:
    """Write each prediction when it is ready; a table waits for a few, to find the widths of its columns."""
    from seresnet.cli.output import BarTable, PlainTable, results_to, rows_for, same_place
    from seresnet.cli.streams import whole_row

    with results_to(output.out) as stream:
        first = list(islice(predictions, TABLE_PEEK if output.format == "table" else 1))
        rows = rows_for(output.format, output.topk, first, stream, output.spreadsheet)
        shown = isinstance(rows, BarTable) or (isinstance(rows, PlainTable) and same_place(stream, sys.stderr))
        stream.write(rows.header)
        try:
            for prediction in chain(first, predictions):
                with whole_row():
                    stream.write(rows.row(prediction))
                    stream.flush()
                    progress.advance(prediction.path, prediction.error, shown=shown)
        except BaseException as error:
            if output.out is None and not isinstance(error, BrokenPipeError):
                print(f"seresnet: cut short after {progress.done:,} images", file=sys.stderr)
            raise
        finally:
            stream.write(rows.footer)
            stream.flush()


def _draw(predicted: list[tuple[Any, Prediction]], sheet: Path, heading: str, max_pixels: int) -> None:
    """Draw the contact sheet from the files, which are read again: predictions keep no images."""
    from seresnet.data.decode import decode
    from seresnet.errors import ImageError
    from seresnet.inference.contact_sheet import contact_sheet

    def rows() -> Iterator[tuple[Image | None, str, list[tuple[str, float]]]]:
        for source, prediction in predicted:
            title = printable(Path(prediction.path or "").name)
            pairs = list(zip(prediction.labels, prediction.probabilities, strict=True))
            try:
                if prediction.error is not None:
                    raise ImageError(prediction.error)
                yield decode(source, max_pixels=max_pixels), title, pairs
            except ImageError as error:
                yield None, title, [(str(error), 0.0)]

    contact_sheet(rows(), sheet, heading=heading)
    print(f"contact sheet: {sheet}", file=sys.stderr)
