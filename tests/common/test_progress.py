"""Progress on stderr: plain lines now and then, or a bar on a terminal."""

import os
import pty
import subprocess
import sys

from seresnet.common.progress import Progress
from tests.cli.terminal import ENVIRONMENT


def test_plain_lines_come_at_the_end_of_a_stage_and_now_and_then(capsys):
    with Progress(seconds=1e9) as progress:
        for done in range(1, 4):
            progress.update("reading", done, 3)
        progress.update("counting", 5)
        progress.say("a line")
    assert capsys.readouterr().err == "reading: 3 of 3\na line\n"
    with Progress(seconds=0) as progress:
        progress.update("counting", 5000, info="7 images/s")
    assert capsys.readouterr() == ("", "counting: 5,000, 7 images/s\n")


def test_a_terminal_has_a_bar_and_lines_above_it():
    code = """
from seresnet.common.progress import Progress
with Progress() as progress:
    assert progress.has_bar
    progress.update("reading", 1, 3)
    progress.say("[bold]a line[/bold]")
    progress.update("reading", 3, info="7 images/s")
with Progress(bar=False) as progress:
    progress.update("hidden", 3, 3)
"""
    leader, follower = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stderr=follower, env={**ENVIRONMENT, "TERM": "xterm"})
    os.close(follower)
    written = b""
    while True:
        try:
            written += os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
    assert process.wait(60) == 0
    text = written.decode()
    assert "[bold]a line[/bold]" in text and "3/3" in text and "7 images/s" in text and "hidden" not in text
