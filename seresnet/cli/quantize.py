"""``seresnet quantize``: quantize a model to int8 and compare it with float32."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from seresnet.common.progress import Progress
from seresnet.common.text import printable

if TYPE_CHECKING:
    from rich.text import Text

    from seresnet.quantization.report import QuantizationReport

PLAIN_SECONDS = 15.0  # between two lines of progress without a terminal


def quantize(
    *,
    model: Annotated[
        str | None, Parameter(help="A name (see seresnet models), a directory, a file, or hf-hub:user/repo.")
    ] = None,
    data: Annotated[str, Parameter(help="Representative images, best a data set with the model's classes.")],
    out: Annotated[Path, Parameter(help="Write the model and quantization.json into this folder.")],
    images: Annotated[int, Parameter(help="Images to calibrate on.")] = 300,
    min_accuracy: Annotated[
        float | None,
        Parameter(
            help="Minimum top-1 accuracy relative to float32 (default: 0.99); for images without classes, minimum "
            "top-1 agreement (default: 0.95)."
        ),
    ] = None,
    workers: Annotated[int | None, Parameter(help="Threads that decode images (default: one per core).")] = None,
    offline: Annotated[bool, Parameter(help="Do not access the network.")] = False,
    exist_ok: Annotated[bool, Parameter(help="Replace the quantized model that is in --out.")] = False,
) -> int:
    """Quantize a model to int8: smaller files, and faster inference on CPUs.

    Some images of DATA calibrate the scales, others compare the result with float32: top-1 agreement, the error of the
    logits, and the accuracy where DATA has the model's classes. A result that is too inaccurate is not written, and the
    exit code is 2; it is 1 if an image could not be read.
    """
    from seresnet.cli.progress import or_default
    from seresnet.quantization.quantize import QuantizationError
    from seresnet.quantization.quantize import quantize as to_int8

    name = or_default(model)
    try:
        with Progress(seconds=PLAIN_SECONDS) as progress:
            report = to_int8(
                *(name, data, out, images, min_accuracy, workers, offline or None, exist_ok),
                progress=progress.update,
            )
    except QuantizationError as error:
        _show(error.report)
        raise
    _show(report)
    print(f"written to {printable(str(out))}", file=sys.stderr)
    return 1 if report.unreadable else 0


def _show(report: QuantizationReport) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for line in _table(report):
        console.print(line, soft_wrap=True)
    for path, reason in report.unreadable:
        print(f"seresnet: cannot read {printable(path)}: {printable(reason)}", file=sys.stderr)


def _table(r: QuantizationReport) -> Iterator[Text]:
    """Yield the lines of the text report."""
    from rich.text import Text

    yield Text.assemble(
        (printable(r.model), "bold"),
        f" in int8: calibrated on {r.calibrated_on:,} images of {printable(r.data)}, ",
        f"compared on {r.compared_on:,} others",
    )
    yield Text(f"{'':28}{'float32':>14}{'int8':>14}{'':14}", "dim")
    if r.float32_top1 is not None and r.int8_top1 is not None:
        change = 100 * (r.int8_top1 - r.float32_top1)
        kept = f"{100 * r.float32_top1:.2f} %", f"{100 * r.int8_top1:.2f} %"
        yield _row("top-1 accuracy", *kept, f"{change:+.2f} points")
    yield _row("top-1 agreement", "", f"{100 * r.agreement:.2f} %")
    yield _row("relative error of logits", "", f"{r.logit_error:.4f}")
    sizes = f"{r.float32_bytes / 1e6:.1f} MB", f"{r.int8_bytes / 1e6:.1f} MB"
    yield _row("size", *sizes, f"{r.float32_bytes / r.int8_bytes:.1f}x smaller")
    for s in r.speed:
        times = f"{s.float32_ms:.2f} ms", f"{s.int8_ms:.2f} ms"
        yield _row(f"latency, batch {s.batch_size}", *times, f"{s.speedup:.2f}x faster")
    yield Text(
        f"{len(r.int8_layers)} of {len(r.layer_dtypes)} layers compute in int8, with weights of {r.weight_bits} bits"
    )
    floats = [f"{name} ({dtype})" for name, dtype in r.layer_dtypes.items() if name not in r.int8_layers]
    if floats:
        yield Text(f"not in int8 here: {', '.join(floats)}")
    for note in r.notes:
        yield Text(f"note: {printable(note)}", "dim")


def _row(name: str, float32: str, int8: str, change: str = "") -> Text:
    from rich.text import Text

    return Text.assemble(f"{name:28}{float32:>14}", (f"{int8:>14}", "bold"), f"{change:>18}")
