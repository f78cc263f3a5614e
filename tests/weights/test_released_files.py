"""The published weights of the legacy networks: files that torch 0.4 to 1.1 wrote, with their real keys and shapes.

timm's network on the meta device gives the keys and shapes, a seed the numbers, and the index the file's name.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seresnet.errors import WeightsError
from seresnet.models.variants import VARIANTS
from seresnet.weights.convert import to_legacy
from seresnet.weights.index import entries
from seresnet.weights.load import network_of
from seresnet.weights.source import resolve
from tests.meta import on_meta_device
from tests.models.pairs import difference
from tests.timm_import import timm
from tests.weights.nets import logits, write_legacy

NINE = [arch for arch, row in VARIANTS.items() if row.lineage == "legacy"]


def released_state(arch: str) -> dict[str, torch.Tensor]:
    """Return random tensors of the keys and shapes of the published file, small enough for finite logits."""
    with on_meta_device():
        shapes = timm.create_model(arch).state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, like in shapes.items():
        if key.endswith("num_batches_tracked"):
            continue
        value = torch.rand(like.shape, generator=generator)
        spread = (6 / like[0].numel()) ** 0.5 if like.ndim > 1 else 1.0
        state[key] = value.add_(0.5) if like.ndim == 1 else value.sub_(0.5).mul_(2 * spread)
    return state


def released_name(arch: str) -> str:
    """Return the name of the file that timm's configuration downloads."""
    url = timm.models.get_pretrained_cfg(arch).url
    assert url.startswith("https://github.com/")
    return url.rpartition("/")[2]


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("arch", NINE)
def test_the_published_files_load_by_their_names(arch: str, tmp_path) -> None:
    state = released_state(arch)
    assert {"layer0.conv1.weight", "layer1.0.se_module.fc1.weight", "last_linear.weight"} <= set(state)
    path = tmp_path / released_name(arch)
    write_legacy(state, path)
    assert path.open("rb").read(4) == b"\x80\x02\x8a\x0a"  # a pickle of protocol 2, no archive
    source = resolve(str(path))
    entry = entries()[f"{arch}.in1k"]
    assert (source.arch, source.num_classes, source.preprocess) == (arch, 1000, entry.transform())
    if entry.sha256_head:  # these are not the published numbers, and have not their hash
        with pytest.raises(WeightsError, match=rf"not {entry.sha256_head}: the file is damaged or another one"):
            network_of(source)
    model = network_of(replace(source, sha256=digest_of(path)))
    assert len(model.labels) == 1000 and model.pretrained_cfg["tag"] == "in1k"
    loaded = to_legacy(model.state_dict())
    assert set(loaded) - set(state) == {key for key in loaded if key.endswith("num_batches_tracked")}
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


@pytest.mark.parametrize("arch", ["legacy_seresnet18", "legacy_seresnext26_32x4d"])
def test_timm_reads_the_same_file_to_the_same_logits(arch: str, tmp_path) -> None:
    path = tmp_path / released_name(arch)
    write_legacy(released_state(arch), path)
    theirs = timm.create_model(arch, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    ours = network_of(replace(resolve(str(path)), sha256=digest_of(path)))
    assert difference(logits(ours), logits(theirs)) <= 1e-5


def test_a_file_as_torch_saves_it_without_an_archive(tmp_path) -> None:
    """torch's own writer of that layout, and counters of batches, which files since torch 0.4.1 have."""
    arch = "legacy_seresnet18"
    theirs = timm.create_model(arch).eval()
    path = tmp_path / released_name(arch)
    torch.save(theirs.state_dict(), path, _use_new_zipfile_serialization=False)
    ours = network_of(replace(resolve(str(path)), sha256=digest_of(path)))
    assert difference(logits(ours), logits(theirs)) <= 1e-5
