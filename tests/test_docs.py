"""README, docs and the other documents name files that exist, and the version that is installed."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from seresnet.version import __version__

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
IDS = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_links_lead_to_files(path: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_files_of_the_package_and_the_tests_exist(path: Path) -> None:
    named = re.findall(
        r"\b(?:seresnet|tests|benchmarks)/[\w/.-]*\.(?:py|md|yaml|json|png)\b", path.read_text(encoding="utf-8")
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_paths_and_names_of_the_architecture_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawing = "".join(ET.parse(ROOT / "docs" / "architecture.svg").getroot().itertext())
    named = re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", text) + re.findall(r"\b(?:\w+/)+\w+\.py", drawing)
    places = [ROOT, ROOT / "seresnet", ROOT / "seresnet" / "weights"]
    assert len(named) > 55
    assert [name for name in named if not any((place / name).exists() for place in places)] == []
    for name in ("source", "fetch", "read", "unwrap", "convert", "identify", "load"):
        assert f"`{name}.py`" in text and (ROOT / "seresnet" / "weights" / f"{name}.py").is_file()


def test_the_table_of_floors_has_every_folder() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("![")[0]
    folders = {path.name for path in (ROOT / "seresnet").iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(re.findall(r"`(\w+)/`", text))


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["version"] == __version__
    assert {"message", "title", "authors", "type"} <= set(citation)
