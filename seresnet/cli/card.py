"""``seresnet card``: facts about one model, published and measured ones apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from seresnet.models.config import SEResNetConfig
    from seresnet.models.resnet import SEResNet
    from seresnet.weights.index import Entry

Fact = tuple[str, str]


def card(
    model: Annotated[str, Parameter(help="A name (see `seresnet models`), a directory, a file, or hf-hub:user/repo.")],
    /,
) -> int:
    """Show a model: accuracy, preprocessing, training, source, license.

    Published numbers are those of the sources named; measured ones are computed here, on the network itself. Only the
    config.json of a repository on the Hugging Face Hub is downloaded.
    """
    from rich.console import Console
    from rich.text import Text

    from seresnet.common.text import printable

    network, entry = described(model)
    console = Console(highlight=False)
    console.print(Text(printable(entry.name if entry else model), "bold green"))
    for title, facts in sections(model, network, entry):
        lines = list(facts)
        if lines:
            console.print(Text(f"\n{title}", "bold"))
        for what, value in lines:
            console.print(Text.assemble("  ", (what.ljust(22), "dim"), printable(value)), soft_wrap=True)
    return 0


def described(name: str) -> tuple[SEResNet, Entry | None]:
    """Return the network by its name, and its entry in the index; a network of the index has no memory for weights."""
    from seresnet.models.variants import VARIANTS
    from seresnet.weights.create import create_model
    from seresnet.weights.identify import build_on_meta
    from seresnet.weights.index import default_entry, default_transform, find_entry
    from seresnet.weights.labels import imagenet_1k

    entry = find_entry(name) or (default_entry(name) if name in VARIANTS else None)
    if (entry is None and name not in VARIANTS) or (entry and entry.bundled):
        return create_model(name, pretrained=entry is not None), entry
    arch = entry.arch if entry else name
    cfg = VARIANTS[arch]
    network = build_on_meta(replace(cfg, num_classes=entry.num_classes) if entry else cfg)
    network.preprocess = entry.transform() if entry else default_transform(name)
    if entry and entry.labels == "imagenet-1k":
        network.labels = list(imagenet_1k()[1])
    return network, entry


def sections(name: str, network: SEResNet, entry: Entry | None) -> Iterator[tuple[str, Iterator[Fact]]]:
    """Yield the parts of the card."""
    yield "network", architecture(network)
    yield "accuracy", accuracy(entry)
    yield "input", preprocessing(network)
    for settings in entry.training if entry else ():
        yield f"training ({settings['source']})", training(settings)
    yield "weights", source(name, network, entry)


def architecture(network: SEResNet) -> Iterator[Fact]:
    """Yield how the network is built and, measured, how large it is and how much work an image is."""
    from seresnet.models.count import count_macs, count_parameters

    cfg = network.cfg
    yield "blocks", f"{cfg.block}, {' + '.join(map(str, cfg.layers))} = {sum(cfg.layers)}"
    yield "width", f"{' '.join(map(str, cfg.channels))}, {network.num_features} features{_groups(cfg)}"
    excitation = f"squeeze-and-excitation, reduction {cfg.reduction} (arXiv 1709.01507)" if cfg.reduction else "none"
    yield "excitation", excitation
    yield (
        "lineage",
        {"legacy": "Caffe (timm's senet.py)", "cifar": "CIFAR networks of He et al."}.get(
            cfg.lineage, "modern (timm's resnet.py)"
        ),
    )
    yield "classes", f"{network.num_classes:,}{_examples(network)}"
    yield "parameters", f"{count_parameters(network):,} (measured)"
    _, height, width = network.preprocess.input_size
    macs = count_macs(network, (height, width))
    yield "multiply-accumulates", f"{macs:,} at {height} x {width} (measured)"


def accuracy(entry: Entry | None) -> Iterator[Fact]:
    """Yield the published accuracy at each size and crop; that of bundled models was measured by this project."""
    if entry is None:
        return
    where = "test images" if entry.bundled else "ImageNet-1k validation, single center crop"
    kind = "measured" if entry.bundled else "published"
    for row in entry.results:
        top5 = "" if row.top5 is None else f", top-5 {row.top5:.3f} %"
        at = f"{row.size} px, crop {row.crop_pct:g}"
        yield at, f"top-1 {row.top1:.3f} %{top5} ({kind}; {where})"
    if not entry.results:
        yield "", "no published accuracy"
    if entry.flops is not None:
        yield "FLOPs", f"{entry.flops:,} (published; by a rule that is not documented)"


def preprocessing(network: SEResNet) -> Iterator[Fact]:
    """Yield the evaluation transform."""
    transform = network.preprocess
    channels, height, width = transform.input_size
    yield "size", f"{channels} channels, {height} x {width} pixels"
    yield "resize", f"{transform.interpolation}, {transform.crop_mode} crop of {transform.crop_pct:g}"
    yield "mean", ", ".join(f"{value:g}" for value in transform.mean)
    yield "std", ", ".join(f"{value:g}" for value in transform.std)


def training(settings: Mapping[str, Any]) -> Iterator[Fact]:
    """Yield how the weights were trained, as one source says."""
    for key, value in settings.items():
        if key != "source":
            yield key.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def source(name: str, network: SEResNet, entry: Entry | None) -> Iterator[Fact]:
    """Yield where the weights come from, and how to get and use them."""
    from seresnet.cli.models import availability

    if entry is None:
        known = any(parameter.device.type != "meta" for parameter in network.parameters())
        yield "source", name if known else "no published weights: this network has to be trained"
        if not known:
            yield "train it", f"seresnet train DATA --model {name}"
            return
    else:
        yield from _sources(entry)
        if entry.file_size_bytes:
            yield "file", f"{entry.file_size_bytes:,} bytes ({'measured' if entry.bundled else 'published'})"
        yield "license", entry.license or "unknown: ask the authors"
        yield (
            "on this machine",
            {"to download": "no: downloaded at first use"}.get((there := availability(entry)), there),
        )
    shown: Any = entry.name if entry else name
    yield "use it", f"seresnet predict IMAGE --model {shown}"
    yield "", f'seresnet.create_model("{shown}", pretrained=True)'


def _sources(entry: Entry) -> Iterator[Fact]:
    if entry.bundled:
        yield "source", "bundled with this package"
    if entry.hub:
        yield "source", f"https://huggingface.co/{entry.hub}"
    if entry.url:
        yield "release file" if entry.hub else "source", entry.url
    for url in entry.mirrors:
        yield "also at", url
    if entry.sha256_head:
        yield "SHA-256", f"{entry.sha256_head}... (of the release file)"
    if entry.origin:
        yield "released by", entry.origin
    if entry.papers:
        yield "papers", ", ".join(entry.papers)


def _groups(cfg: SEResNetConfig) -> str:
    return f", {cfg.groups} groups of width {cfg.base_width}" if cfg.groups > 1 else ""


def _examples(network: SEResNet) -> str:
    if not network.labels:
        return ""
    more = ", ..." if len(network.labels) > 5 else ""
    return f": {', '.join(network.labels[:5])}{more}"
