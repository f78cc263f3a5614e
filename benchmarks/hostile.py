"""Gives seeded, damaged and crafted files to this package, and counts what comes of it: nothing may die, hang or leak.

    python benchmarks/hostile.py weights|configs|graphs|images|indexes [--count 2000] [--seed 0] [--out DIR]

A campaign is a function that writes case N below a folder and returns the path, and the function that opens it. Each
case is opened in a worker process with bounded memory, which goes on with the next one; a worker that dies or hangs
is replaced, and counted. Right is a SeresnetError of one printable line, or a result.
"""

from __future__ import annotations

import argparse
import datetime
import io
import multiprocessing
import os
import platform
import random
import resource
import shutil
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import hostile_data
import hostile_models

SECONDS = 10.0  # for one case
GIGABYTES = 2  # for one case, beyond what the worker has when it is ready


class Campaign(NamedTuple):
    """How a case is written, and how it is opened."""

    write: Callable[[Path, random.Random], Path]
    open: Callable[[Path], object]


# Weights: whole checkpoints in every container, damaged in their bytes, their instructions or their tensors


def original_weights() -> dict[str, bytes]:
    """Return one small network in each kind of file, by its suffix and container."""
    import torch
    from safetensors.torch import save

    import seresnet

    torch.manual_seed(0)
    model = seresnet.create_model("seresnet20", num_classes=10)
    state = model.state_dict()
    wrapped = {"state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {}}}
    files = {"plain.safetensors": save(state)}
    for name, value in (("bare", state), ("wrapped", wrapped)):
        for as_zip in (True, False):
            buffer = io.BytesIO()
            torch.save(value, buffer, _use_new_zipfile_serialization=as_zip)
            files[f"{name}-{'zip' if as_zip else 'stream'}.pth"] = buffer.getvalue()
    return files


ORIGINALS: dict[str, bytes] = {}


def write_weights(folder: Path, rng: random.Random) -> Path:
    """Write one damaged or crafted weights file."""
    if not ORIGINALS:
        ORIGINALS.update(original_weights())
    name = rng.choice(sorted(ORIGINALS))
    path = folder / f"seresnet20-{name}"
    path.write_bytes(rng.choice(DAMAGES)(bytearray(ORIGINALS[name]), rng))
    return path


def flip(data: bytearray, rng: random.Random) -> bytes:
    """Change a few bytes, most of them where the structure is."""
    ends = (min(len(data), 60_000), len(data))
    for _ in range(rng.choice((1, 2, 8, 64))):
        data[rng.randrange(rng.choice(ends))] = rng.randrange(256)
    return bytes(data)


def cut(data: bytearray, rng: random.Random) -> bytes:
    """Leave out the end, or a piece in the middle."""
    a = rng.randrange(len(data))
    return bytes(data[:a] + (b"" if rng.random() < 0.5 else data[a + rng.randrange(1, 4096) :]))


def repeat(data: bytearray, rng: random.Random) -> bytes:
    """Put a piece in again, once or many times."""
    a = rng.randrange(min(len(data), 60_000))
    piece = data[a : a + rng.randrange(1, 200)]
    return bytes(data[:a] + piece * rng.choice((2, 50, 5000)) + data[a:])


def instructions(data: bytearray, rng: random.Random) -> bytes:
    """Write a pickle of random instructions that the safe unpickler knows, with many that nest or call."""
    names = (
        b"builtins\nbytearray",
        b"builtins\nset",
        b"collections\nOrderedDict",
        b"torch\nFloatTensor",
        b"torch\nSize",
    )
    names += (b"_codecs\nencode", b"torch._utils\n_rebuild_tensor_v2", b"collections\nCounter", b"os\nsystem")
    choices = [
        *(
            b"}",
            b"]",
            b")",
            b"(",
            b"N",
            b"\x85",
            b"\x86",
            b"\x87",
            b"t",
            b"R",
            b"b",
            b"s",
            b"u",
            b"a",
            b"e",
            b"Q",
            b"\x81",
        ),
        *(b"c" + name + b"\n" for name in names),
        *(
            b"K\x05",
            b"J\xff\xff\xff\x7f",
            b"X\x03\x00\x00\x00abc",
            b"X\xff\xff\xff\xff",
            b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
        ),
        *(b"q\x01", b"h\x01", b"q\x02", b"h\x02"),
    ]
    body = b"".join(rng.choice(choices) * rng.choice((1, 1, 1, 2, 5, 3000)) for _ in range(rng.randrange(1, 200)))
    magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
    head = rng.choice((b"\x80\x02", magic + b"\x80\x02M\xe9\x03." + b"\x80\x02}.\x80\x02"))
    return head + body + b"."


def header(data: bytearray, rng: random.Random) -> bytes:
    """Write a safetensors file whose header lies."""
    shape, end = rng.choice(("[-1]", "[1e3]", "[9999999999]", "[[]]", "[2,2]", "null")), rng.choice((0, 16, 2**40, -4))
    kind, key = (
        rng.choice(("F32", "F4", "U64", "BOOL", "C64", "")),
        rng.choice(("fc.weight", "\\u001b[31m", "k" * 3_000_000)),
    )
    text = f'{{"{key}":{{"dtype":"{kind}","shape":{shape},"data_offsets":[0,{end}]}}}}'.encode()
    length = rng.choice((len(text), len(text), 0, 2**55, len(text) + 7))
    return struct.pack("<Q", length) + text + b"\0" * rng.choice((0, 16, 4096))


def tensors(data: bytearray, rng: random.Random) -> bytes:
    """Write a whole file of tensors that no network has."""
    import torch

    import seresnet

    state: dict[str, Any] = seresnet.create_model("seresnet20").state_dict()
    key = rng.choice(sorted(state))
    odd = [
        *(torch.zeros(1).expand(20_000_000, 64), torch.full_like(state[key], -1), torch.zeros(0), torch.zeros(3, 0)),
        *(torch.eye(4).to_sparse(), torch.zeros(2, dtype=torch.complex64), torch.full((1,), float("nan"))),
        *(torch.zeros(4, dtype=torch.float8_e5m2), torch.zeros(2, device="meta"), None, "text", {"a": state}, [state]),
    ]
    state[rng.choice((key, "bn1.running_var", "x" * 3_000_000, "\x1b[31m", "layer1.0.more"))] = rng.choice(odd)
    buffer = io.BytesIO()
    torch.save(
        rng.choice((state, {"model": state}, [state])), buffer, _use_new_zipfile_serialization=rng.random() < 0.5
    )
    return buffer.getvalue()


DAMAGES = (flip, cut, repeat, instructions, header, tensors)


def open_weights(path: Path) -> object:
    """Load the file as a model and as a training state, as the commands do."""
    import seresnet
    from seresnet.errors import SeresnetError
    from seresnet.training.checkpoint import load_state

    try:
        load_state(path)
    except SeresnetError as error:
        check_line(error)
    return seresnet.create_model(path, pretrained=True)


CAMPAIGNS = {
    "weights": Campaign(write_weights, open_weights),
    "configs": Campaign(hostile_models.write_config, hostile_models.open_model),
    "graphs": Campaign(hostile_models.write_graph, hostile_models.open_model),
    "images": Campaign(hostile_data.write_image, hostile_data.open_image),
    "indexes": Campaign(hostile_data.write_index, hostile_data.open_index),
}


# The worker and the counts


def check_line(error: Exception) -> None:
    """Raise ValueError unless an error is one printable line."""
    if not hostile_data.is_line(str(error)):
        raise ValueError(f"not one printable line: {str(error)[:100]!r}")


def work(name: str, pipe: Connection) -> None:
    """Open one case after the other, and answer what came of it."""
    import logging

    import seresnet
    from seresnet.errors import SeresnetError

    logging.disable(logging.CRITICAL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    seresnet.create_model("seresnet20")
    pages = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()  # data
    resource.setrlimit(resource.RLIMIT_DATA, (pages + (GIGABYTES << 30),) * 2)
    pipe.send("ready")
    while True:
        path = pipe.recv()
        try:
            CAMPAIGNS[name].open(path)
            pipe.send("opened")
        except SeresnetError as error:
            pipe.send("refused" if hostile_data.is_line(str(error)) else f"not a line: {error!r:.90}")
        except BaseException as error:
            pipe.send(f"{type(error).__name__}: {str(error)[:80]}")


class Worker:
    """A worker process that is replaced when it dies or hangs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.start()

    def start(self) -> None:
        """Start a process, and wait until it is ready."""
        self.pipe, other = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=work, args=(self.name, other), daemon=True)
        self.process.start()
        other.close()
        self.pipe.recv()

    def open(self, path: Path) -> str:
        """Return what came of one case."""
        self.pipe.send(path)
        answered = self.pipe.poll(SECONDS)
        try:
            if answered:
                return self.pipe.recv()
            outcome = "hung"
        except EOFError:
            self.process.join()
            outcome = f"died ({self.process.exitcode})"
        self.process.kill()
        self.start()
        return outcome


def run(name: str, count: int, seed: int) -> tuple[Counter[str], float, float]:
    """Open ``count`` cases; return how often each outcome came, the seconds, and the slowest case's seconds."""
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SERESNET_CACHE"] = f"{folder}/cache"  # nothing is remembered beyond this run
        worker, slowest, start = Worker(name), 0.0, time.perf_counter()
        for number in range(seed, seed + count):
            path = CAMPAIGNS[name].write(Path(folder), random.Random(number))
            begin = time.perf_counter()
            outcome = worker.open(path)
            slowest = max(slowest, time.perf_counter() - begin)
            found[outcome] += 1
            if outcome not in ("refused", "opened"):
                print(f"seed {number}, {path.name}: {outcome}", flush=True)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        worker.process.kill()
    return found, time.perf_counter() - start, slowest


def record(name: str, found: Counter[str], seed: int, seconds: float, slowest: float) -> str:
    """Return the record of a campaign as Markdown."""
    import torch

    wrong = sum(number for outcome, number in found.items() if outcome not in ("refused", "opened"))
    lines = [
        f"# Hostile {name}, {datetime.date.today()}",
        "",
        f"`python benchmarks/hostile.py {name} --count {found.total()} --seed {seed}`: {found.total():,} files, "
        f"**{wrong} wrong outcomes** (a death, a hang over {SECONDS:.0f} s, more than {GIGABYTES} GB, an error that is "
        "not one printable line).",
        "",
        "| outcome | files |",
        "| --- | ---: |",
        *(f"| {outcome} | {number:,} |" for outcome, number in found.most_common()),
        "",
        f"{seconds:.0f} s in all, slowest file {slowest:.1f} s; torch {torch.__version__}, Python "
        f"{platform.python_version()}, {platform.system()}, {os.cpu_count()} cores shared with other work.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run a campaign, print its record, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaign", choices=CAMPAIGNS)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder for the record")
    arguments = parser.parse_args()
    found, seconds, slowest = run(arguments.campaign, arguments.count, arguments.seed)
    text = record(arguments.campaign, found, arguments.seed, seconds, slowest)
    print(text)
    if arguments.out:
        path = arguments.out / f"{datetime.date.today()}-hostile-{arguments.campaign}.md"
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
