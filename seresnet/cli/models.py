"""``seresnet models``: architectures and pretrained weights."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.markup import escape

from seresnet.common.text import printable

if TYPE_CHECKING:
    from rich.table import Table

    from seresnet.weights.index import Entry


def models(
    pattern: Annotated[
        str | None, Parameter(help="Part of a name, or a pattern such as `legacy_*` (default: all).")
    ] = None,
    /,
    *,
    pretrained: Annotated[bool, Parameter(help="List pretrained weights, with their published accuracy.")] = False,
    check_sources: Annotated[
        bool, Parameter(help="Ask each source of the weights for its headers; exit code 1 if one does not answer.")
    ] = False,
    format: Annotated[Literal["table", "json"], Parameter(help="Output format.")] = "table",
) -> int:
    """List architectures and pretrained weights.

    The name of an architecture means its first weights; the name of weights is ARCHITECTURE.TAG.
    """
    from seresnet.weights.index import list_models

    given = pattern
    if pattern is not None and not set(pattern) & set("*?["):
        pattern = f"*{pattern}*"
    names = list_models(pattern, pretrained or check_sources)
    if check_sources and names:
        return _check_sources(names, format)
    rows = [weight_facts(name) if pretrained else network_facts(name) for name in names]
    if format == "json":
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    elif rows:
        _print(_weights_table(rows) if pretrained else _networks_table(rows))
    if not rows:
        print(f"no name matches {printable(given or '')}; {_suggestion(given or '')}", file=sys.stderr)
    return 0


def _suggestion(name: str) -> str:
    """Return the nearest names of architectures and weights, for a name that nothing matches."""
    from difflib import get_close_matches

    from seresnet.weights.index import list_models

    near = get_close_matches(name, [*list_models(), *list_models(pretrained=True)], 3, 0.6)
    return f"did you mean {' or '.join(near)}?" if near else "run `seresnet models` to list the names"


def network_facts(name: str) -> dict[str, Any]:
    """Return an architecture's name, its depth and the tags of its weights, the default one first."""
    from seresnet.models.variants import VARIANTS
    from seresnet.weights.index import entries

    cfg = VARIANTS[name]
    return {
        "name": name,
        "blocks": list(cfg.layers),
        "block": cfg.block,
        "excitation": cfg.reduction is not None,
        "classes": cfg.num_classes,
        "weights": [entry.name for entry in entries().values() if entry.arch == name],
    }


def weight_facts(name: str) -> dict[str, Any]:
    """Return the facts of a weight: accuracy in percent, published or, of bundled weights, measured."""
    from seresnet.weights.index import entries

    entry = entries()[name]
    return {
        "name": name,
        "classes": entry.num_classes,
        "input_size": list(entry.transform().input_size),
        "crop_pct": entry.transform().crop_pct,
        "measured" if entry.bundled else "published": [asdict(row) for row in entry.results],
        "license": entry.license,
        "source": "bundled" if entry.bundled else f"hf-hub:{entry.hub}" if entry.hub else entry.url,
        "available": availability(entry),
    }


def availability(entry: Entry) -> str:
    """Return "bundled", "downloaded" (a file of it is on this machine) or "to download"."""
    if entry.bundled:
        return "bundled"
    from seresnet.weights.fetch import local_files

    return "downloaded" if any(local_files(entry)) else "to download"


def _check_sources(names: list[str], format: str) -> int:
    """Print what each source of these weights answers; return 1 if one does not have the file."""
    from dataclasses import asdict

    from seresnet.weights.check_sources import check_sources
    from seresnet.weights.index import entries

    checks = list(check_sources(entries()[name] for name in names))
    if format == "json":
        print(json.dumps([asdict(check) for check in checks], indent=1, ensure_ascii=False))
    else:
        table = _table("weights", "source", "answers", "bytes", "SHA-256", "address")
        for check in checks:
            answers = "[green]yes" if check.problem is None else f"[bold red]no[/]: {escape(check.problem)}"
            size = "" if check.size is None else f"{check.size:,}"
            table.add_row(check.name, check.kind, answers, size, check.sha256_head or "", escape(check.url))
        _print(table)
    failed = [check for check in checks if check.problem is not None]
    if failed:
        print(f"{len(failed)} of {len(checks)} sources do not have the file", file=sys.stderr)
    return 1 if failed else 0


def _networks_table(rows: list[dict[str, Any]]) -> Table:
    table = _table("network", "blocks", "excitation", "weights")
    for row in rows:
        blocks = f"{row['block']} {'-'.join(map(str, row['blocks']))}"
        tags = ", ".join(name.partition(".")[2] for name in row["weights"])
        table.add_row(row["name"], blocks, "yes" if row["excitation"] else "no", tags or "[dim]none[/dim]")
    return table


def _weights_table(rows: list[dict[str, Any]]) -> Table:
    table = _table("weights", "pixels", "crop", "top-1 %", "top-5 %", "classes", "where")
    for row in rows:
        own = {"size": row["input_size"][-1], "crop_pct": row["crop_pct"], "top1": None, "top5": None}
        first, *others = row.get("published") or row.get("measured") or [own]
        where = {"bundled": "[bold green]bundled", "downloaded": "[green]downloaded"}
        state = where.get(row["available"], f"[dim]{row['available']}")
        table.add_row(row["name"], *_result(first), f"{row['classes']:,}", state)
        for other in others:
            table.add_row("", *_result(other))
    table.caption = (
        "top-1 and top-5 on ImageNet-1k validation, as published at that size and crop; first line: the weight's own\n"
        "size and crop, the default. Of bundled weights: as measured here"
    )
    return table


def _result(row: dict[str, Any]) -> list[str]:
    accuracy = ["" if row[key] is None else f"{row[key]:.3f}" for key in ("top1", "top5")]
    return [f"{row['size']}", f"{row['crop_pct']:g}", *accuracy]


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    table.add_column(columns[0], style="bold", overflow="fold")  # names are never cut
    for column in columns[1:]:
        right = column.endswith("%") or column in ("classes", "pixels", "crop", "bytes")
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    return table


def _print(table: Table) -> None:
    """Print to stdout; into a pipe as wide as it has to be, and without spaces at the ends of lines."""
    from rich.console import Console

    console = Console()
    if console.is_terminal:
        console.print(table)
        return
    wide = Console(width=1000)
    with wide.capture() as capture:
        wide.print(table)
    lines = [line.rstrip() for line in capture.get().strip("\n").splitlines()]
    print("\n".join(lines).strip("\n"))
