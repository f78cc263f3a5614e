"""Every command and snippet of docs/serving.md runs as it is written, but for the port."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import yaml

from tests.cli.terminal import ENVIRONMENT
from tests.serving.conftest import PHOTOGRAPHS
from tests.serving.test_serve_command import Process

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(console|python|javascript)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PORT = "8000"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_manual(tmp_path):
    for name, photo in (("cat.jpg", "chelsea.png"), ("dog.jpg", "rocket.jpg")):
        shutil.copy(PHOTOGRAPHS / photo, tmp_path / name)
    server, outputs = None, []
    try:
        for language, code in BLOCK.findall((ROOT / "docs" / "serving.md").read_text(encoding="utf-8")):
            commands = [code] if language != "console" else re.findall(r"^\$ (.*)$", code, re.MULTILINE)
            for command in commands:
                if command.startswith("seresnet serve "):
                    assert server is None or server.end() == 0
                    server = Process(*command.split()[2:], cwd=tmp_path)
                else:
                    outputs.append(run(language, command.replace(PORT, str(server.port if server else 0)), tmp_path))
    finally:
        if server is not None:
            server.end()
    predict, form, from_json, embed, _, explained, card, python, javascript, triton, _, keyed, metrics = outputs
    assert [p["label"] for p in json.loads(predict)["predictions"]] == ["cat", "dog"]
    assert [r["name"] for r in json.loads(form)["results"]] == ["cat.jpg", "dog.jpg"]
    assert json.loads(from_json)["predictions"][0]["label"] == "cat" and len(json.loads(embed)["embedding"]) == 64
    assert json.loads(explained)["explained"]["label"] == "cat"
    assert (tmp_path / "heat-map.png").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads(card)["labels"]) == 10
    assert "'label': 'cat'" in python and (javascript is None or "'cat'" in javascript) and triton.startswith("[[")
    assert json.loads(keyed)["model"] == "again" and 'seresnet_images_total{model="again"} 1.0' in metrics


def run(language: str, code: str, folder: Path) -> str | None:
    """Return what a command or a snippet prints; None where there is nothing to run it."""
    if language == "javascript" and shutil.which("node") is None:
        return None
    if language == "python":  # here, where all that it imports is there
        with chdir(folder), redirect_stdout(StringIO()) as printed:
            exec(compile(code, "docs/serving.md", "exec"), {})
        return printed.getvalue()
    command = {"console": ["bash", "-c", code], "javascript": ["node", "--input-type=module", "-e", code]}[language]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=ENVIRONMENT, timeout=60)
    assert done.returncode == 0, (code, done.stderr)
    return done.stdout


def test_the_files_for_containers_agree_with_the_command():
    """They cannot be built here: they parse, and name flags, ports and files that exist."""
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    scrape = yaml.safe_load((ROOT / "deploy" / "prometheus.yaml").read_text())["scrape_configs"][0]
    assert scrape["static_configs"][0]["targets"] == ["seresnet:8000"] and "seresnet" in compose["services"]
    assert (ROOT / "deploy" / compose["services"]["seresnet"]["build"]["context"] / "deploy" / "Dockerfile").is_file()
    given = (ROOT / "deploy" / "Dockerfile").read_text() + str(compose["services"]["seresnet"]["command"])
    command = (ROOT / "seresnet" / "cli" / "serve.py").read_text()
    for flag in re.findall(r'["\']--([a-z-]+)["\']', given):
        assert f"    {flag.replace('-', '_')}: " in command, flag
