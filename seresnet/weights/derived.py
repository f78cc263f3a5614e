"""Save a model that was made of another one: where it may be written, and what it keeps of the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from seresnet.common.files import atomic_folder, check_output_folder, json_text, write_text
from seresnet.data.image_hashes import FILE, read_hashes, write_hashes
from seresnet.errors import ConfigError
from seresnet.models.resnet import SEResNet
from seresnet.weights.save import save

MODEL_FILES = {"config.json", "model.safetensors", FILE}


def check_model_folder(out: Path, exist_ok: bool) -> None:
    """Raise ConfigError where `save_into` would replace more than a saved model."""
    check_output_folder(out, exist_ok)
    others = sorted({file.name for file in out.iterdir()} - MODEL_FILES) if out.is_dir() else []
    if others:
        raise ConfigError(f"{out} holds more than a saved model ({', '.join(others[:3])}): give another folder")


def save_into(out: Path, network: SEResNet, facts: dict[str, Any], origin: Path) -> None:
    """Save a network that was made of the model ``origin``, with ``facts`` in its ``config.json``.

    Which images the model was trained on is kept, so that an evaluation still recognizes them.
    """
    hashes = read_hashes(origin) if origin.is_dir() else None
    with atomic_folder(out) as folder:
        save(network, folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        write_text(folder / "config.json", json_text(config | facts))
        if hashes is not None:
            write_hashes(folder, hashes)
