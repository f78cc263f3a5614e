"""What the speed records compute: goals reached and missed from known numbers, tables, the block of the manual."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from seresnet.common.timing import Timing

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def record():
    spec = spec_from_file_location("speed_record", ROOT / "benchmarks" / "record.py")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def timings(**rounds: tuple[float, ...]) -> dict[str, Timing]:
    return {name: Timing(name, 1, figures) for name, figures in rounds.items()}


def test_a_goal_is_reached_or_missed_by_the_median_of_the_rounds(record):
    found = timings(peer=(30.0, 42.0, 44.0), ours=(20.0, 21.0, 20.0))  # 1.5, 2.0 and 2.2 times
    reached = record.Goal("a", "ours", "peer", 2.0).row(found)
    assert reached == ["a", "at least 2 times", "2.000 times", "1.750 to 2.100", "reached"]
    missed = record.Goal("a", "ours", "peer", 2.01).row(found)
    assert missed[2:] == ["2.000 times", "1.750 to 2.100", "**missed**"]


def test_a_cost_is_the_share_of_more_time(record):
    found = timings(control=(100.0, 100.0, 100.0), ours=(108.0, 109.0, 111.0))
    goal = record.Goal("excitation", "ours", "control", 1 / 1.1, is_cost=True)
    assert goal.row(found) == ["excitation", "at most 10 % more time", "+9.0 %", "+8.5 % to +10.0 %", "reached"]
    dearer = timings(control=(100.0,), ours=(110.1,))
    assert goal.row(dearer)[2:] == ["+10.1 %", "+10.1 % to +10.1 %", "**missed**"]


def test_a_table_is_markdown(record):
    assert record.table(("", "ms"), [["a", "1"], ["b", "2"]]) == "|  | ms |\n| --- | ---: |\n| a | 1 |\n| b | 2 |\n"


def test_the_block_of_a_page_is_replaced_and_nothing_else(record, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{record.BEGIN}\nold\n{record.END}\nafter\n")
    record.fill_block(page, "new\n")
    assert page.read_text() == f"before\n{record.BEGIN}\nnew\n{record.END}\nafter\n"
    page.write_text("no marks\n")
    with pytest.raises(SystemExit, match="lacks"):
        record.fill_block(page, "new")
    assert page.read_text() == "no marks\n"


def test_the_manual_has_the_block(record):
    text = (ROOT / "docs" / "gate-first.md").read_text(encoding="utf-8")
    assert text.count(record.BEGIN) == text.count(record.END) == 1
    assert text.index(record.BEGIN) < text.index(record.END)
