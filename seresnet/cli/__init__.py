"""The command line, one file per verb. This one parses, calls the verb, and prints any failure as one line."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from difflib import get_close_matches

from cyclopts import App, CycloptsError, Parameter, UnknownCommandError

from seresnet.cli.arguments import STDIN
from seresnet.cli.streams import Terminated, handled_signals
from seresnet.common.extras import extra_behind
from seresnet.common.files import disk_full
from seresnet.common.text import one_line, printable
from seresnet.errors import SeresnetError
from seresnet.version import __version__

# verb -> (module:function, what it takes, one line of help). A verb's module is imported when the verb is used.
VERBS = {
    "predict": (
        "seresnet.cli.predict:predict",
        "SOURCE...",
        "Classify images: files, folders, globs, or a list on stdin.",
    ),
    "eval": ("seresnet.cli.eval:evaluate", "DATA", "Evaluate a model on labelled images."),
    "calibrate": (
        "seresnet.cli.calibrate:calibrate",
        "DATA",
        "Make a model's probabilities agree with how often it is right.",
    ),
    "train": ("seresnet.cli.train:train", "DATA", "Train or fine-tune a model on a folder of labelled images."),
    "explain": (
        "seresnet.cli.explain:explain",
        "SOURCE...",
        "Show what predictions depend on: heat maps and channels.",
    ),
    "excitations": (
        "seresnet.cli.excitations:excitations",
        "DATA",
        "Show what the gates do on a data set, by class and block.",
    ),
    "check": ("seresnet.cli.check:check", "DATA", "Find what would spoil training: duplicates, leaks, wrong labels."),
    "embed": ("seresnet.cli.embed:embed", "SOURCE...", "Write the embeddings of images into a file."),
    "search": ("seresnet.cli.search:search", "VECTORS IMAGE...", "Find similar images in a file of embeddings."),
    "serve": ("seresnet.cli.serve:serve", "", "Serve models over HTTP, with a page for people."),
    "pack": ("seresnet.cli.pack:pack", "DATA", "Pack labelled images into tar shards."),
    "quantize": ("seresnet.cli.quantize:quantize", "", "Quantize a model to int8 and report accuracy, size and speed."),
    "benchmark": (
        "seresnet.cli.benchmark:benchmark",
        "",
        "Compare the speed of models, engines and precisions on this machine.",
    ),
    "models": ("seresnet.cli.models:models", "[PATTERN]", "List architectures and pretrained weights."),
    "card": ("seresnet.cli.card:card", "MODEL", "Show a model: accuracy, preprocessing, training, source, license."),
    "doctor": ("seresnet.cli.doctor:doctor", "", "Check the installation and show the hardware."),
}


def make_app(asked: str | None = None) -> App:
    """Return the application with every verb, none of them imported yet.

    The verb that is ``asked`` for is described by its full docstring, the others by their line in the table.
    """
    app = App(
        name="seresnet",
        usage="Usage: seresnet COMMAND",
        help="SE-ResNets: classify images, train on your own images, evaluate.",
        help_epilogue="Every command takes --debug, which shows the traceback of an error.",
        help_format="markdown",
        version=__version__,
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative=(), show_default=_default),
    )
    for place, (verb, (target, takes, line)) in enumerate(VERBS.items()):
        usage = " ".join(("Usage: seresnet", verb, *takes.split(), "[OPTIONS]"))
        app.command(target, name=verb, usage=usage, help=None if verb == asked else line, sort_key=place)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code: 0 done, 1 some inputs could not be read, 2 could not run.

    130 and 143 mean an interrupt and SIGTERM, and 141 for a reader of stdout that left, as in a shell.
    """
    tokens, debug = _without_debug(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 is not a reason to fail
    try:
        with handled_signals():
            result = make_app(tokens[0] if tokens else None)(
                tokens, exit_on_error=False, print_error=False, verbose=False, result_action="return_value"
            )
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except BrokenPipeError:
        _silence_stdout()
        return 128 + signal.SIGPIPE
    except Terminated:
        return _fail("terminated", 128 + signal.SIGTERM)
    except KeyboardInterrupt:
        if debug:
            raise
        return _fail("interrupted", 130)
    except Exception as error:
        if debug and not isinstance(error, CycloptsError):
            raise
        if _stdout_failed(error):
            return _fail(f"stdout cannot be written to ({one_line(error)}): the results are cut short", 2)
        return _fail(error_line(error), error.exit_code if isinstance(error, SeresnetError) else 2)


def error_line(error: Exception) -> str:
    """Return one line that says what went wrong and what to do."""
    if isinstance(error, CycloptsError):
        return _usage_error(error)
    if isinstance(error, SeresnetError):
        return str(error)
    return (
        extra_behind(error) or f"{type(error).__name__}: {error} (unexpected; run it again with --debug to see where)"
    )


def _without_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Take out ``--debug``, wherever it stands before ``--``; mark a lone ``-``, which cyclopts takes for an option."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [STDIN if token == "-" else token for token in arguments[:end] if token != "--debug"]
    return [*options, *arguments[end:]], "--debug" in arguments[:end]


def _usage_error(error: CycloptsError) -> str:
    """Return what is wrong with the arguments, and where to look."""
    if isinstance(error, UnknownCommandError) and error.unused_tokens:
        wrong = error.unused_tokens[0]  # its own text would import every verb
        near = get_close_matches(wrong, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(VERBS)}"
        return f"unknown command {wrong!r}: {hint} (see seresnet --help)"
    reason = str(error).replace(STDIN, "-").strip().rstrip(".")
    command = " ".join(["seresnet", *(error.command_chain or ())])
    return f"{reason[:1].lower()}{reason[1:]} (see {command} --help)"


def _fail(reason: str, code: int) -> int:
    """Print the one line, and return the exit code."""
    print(f"seresnet: error: {printable(reason)}", file=sys.stderr)
    return code


def _stdout_failed(error: Exception) -> bool:
    """Return whether stdout cannot be written to, such as for a full disk; what is buffered for it is given up."""
    if isinstance(error, SeresnetError) or not isinstance(error, OSError) or error.filename is not None:
        return False
    try:
        sys.stdout.flush()
    except OSError:
        _silence_stdout()
        return True
    return disk_full(error)


def _silence_stdout() -> None:
    """Send what is still buffered for stdout nowhere, or the interpreter complains about it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _default(value: object) -> str | None:
    """Return how the help shows a default; not at all where nothing stands for "not given"."""
    return None if value in (None, False, ()) else str(value)
