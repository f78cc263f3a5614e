"""Does `seresnet serve` hold under load? Answers compared with `predict`, overload, slow clients, SIGTERM, and peers.

    python benchmarks/serve_load.py [--seconds 20] [--only NAME ...] [--record benchmarks/DATE-serve-load.md]

Loopback only, and bounded in time: each scenario takes `--seconds`. The clients are one process, the server another,
on the same cores. `--only soak --seconds 3600` is the hour of load. Peers: see serve_peers.py.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import networks
import numpy as np
import record
from PIL import Image
from serve_client import Answer, Client, Load, closed_loop, poisson, slow_clients
from skimage import data

from seresnet.common.files import write_text
from seresnet.inference.classifier import load as load_classifier

ARCH = "legacy_seresnet18"
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry")
COUNT, SIDE, CLIENTS = 128, 256, 64
ENDINGS = 20  # servers that get SIGTERM under load
ROUNDS = 3  # of what takes turns
Row = tuple[str, str]


def write_photographs(folder: Path) -> None:
    """Write different pieces of the photographs that scikit-image brings along, as JPEG files."""
    chance, pictures = random.Random(0), [Image.fromarray(getattr(data, name)()[..., :3]) for name in PHOTOS]
    for number in range(COUNT):
        picture = pictures[number % len(pictures)]
        side = chance.randrange(120, min(picture.size))
        left, top = chance.randrange(picture.width - side), chance.randrange(picture.height - side)
        piece = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        piece.save(folder / f"{number:03}.jpg", quality=90)


class Server:
    """A server in a process of its own."""

    def __init__(self, command: Sequence[str], port: int, log: Any = subprocess.DEVNULL) -> None:
        self.port, self.process = port, subprocess.Popen(command, stderr=log, start_new_session=True)
        until = time.monotonic() + 120
        while socket.socket().connect_ex(("127.0.0.1", port)):
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{' '.join(command)}: does not run")
            time.sleep(0.05)

    def memory(self) -> float:
        """Return the resident megabytes of the process and its children."""
        status = subprocess.run(
            ["ps", "-o", "rss=", "-s", str(self.process.pid)], capture_output=True, text=True, check=True
        )
        return sum(map(int, status.stdout.split())) / 1000

    def cpu(self) -> float:
        """Return the seconds of CPU time that the process has taken."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


class Bench:
    """The model, its images, and what is right for each."""

    def __init__(self, model: Path, images: Sequence[Path], seconds: float, share: float = 0.5) -> None:
        self.model, self.paths, self.seconds, self.share = model, images, seconds, share
        self.images = [path.read_bytes() for path in images]
        self.classifier = load_classifier(model, device="cpu")
        self.truth = [prediction.to_dict()["predictions"] for prediction in self.classifier.predict(self.images)]
        self.saturation = 0.0  # images a second that the server answers at most

    @contextmanager
    def server(self, *flags: str, log: Any = subprocess.DEVNULL) -> Iterator[Server]:
        port = free_port()
        command = [sys.executable, "-m", "seresnet", "serve", "--model", str(self.model), "--port", str(port), *flags]
        with self.running(Server([*command, "--offline"], port, log)) as found:
            yield found

    @contextmanager
    def peer(self, name: str) -> Iterator[Server]:
        port = free_port()
        script = str(Path(__file__).with_name("serve_peers.py"))
        with self.running(Server([sys.executable, script, name, str(self.model), str(port)], port)) as found:
            asyncio.run(closed_loop(self.client(found, name), 1, 1.0))
            yield found

    @contextmanager
    def running(self, server: Server) -> Iterator[Server]:
        try:
            yield server
        finally:
            with_children = os.getpgid(server.process.pid) if server.process.poll() is None else None
            if with_children is not None:
                os.killpg(with_children, signal.SIGKILL)
                server.process.wait()

    def client(self, server: Server, peer: str = "") -> Client:
        if peer == "litserve":
            bodies = [json.dumps({"image": base64.b64encode(image).decode()}).encode() for image in self.images]
            return Client(server.port, bodies, self.is_right, "application/json")
        return Client(server.port, self.images, self.is_right)

    def is_right(self, image: int, answer: Any) -> bool:
        found, truth = answer["predictions"], self.truth[image]
        return found[0]["index"] == truth[0]["index"] and np.isclose(
            found[0]["probability"], truth[0]["probability"], rtol=1e-2, atol=1e-3
        )

    def engine_rate(self, seconds: float) -> tuple[float, float]:
        """Return images a second and milliseconds of CPU an image of the library itself, decoding included."""
        done, began, cpu = 0, time.monotonic(), time.process_time()
        while time.monotonic() < began + seconds:
            done += len(self.classifier.predict(self.images))
        return done / (time.monotonic() - began), 1000 * (time.process_time() - cpu) / done

    def load(self, coroutine: Any) -> Load:
        return asyncio.run(coroutine)


def told(load: Load) -> str:
    """Return the counts of a load in words."""
    others = sorted({answer.status for answer in load.answers} - {200, 0})
    refused = "".join(f", {len(load.of(status)):,} with {status}" for status in others)
    return f"{len(load.of(200)):,} answered{refused}; {len(load.of(0))} lost, {load.wrong} wrong"


def saturated(bench: Bench) -> Iterator[Row]:
    """All clients at once, in rounds: the library and the server take turns, so that both see the same machine."""
    total, alone, served, client = Load(), [], [], []
    with bench.server() as server:
        bench.load(closed_loop(bench.client(server), CLIENTS, 2.0))
        for _ in range(ROUNDS):
            alone.append(bench.engine_rate(bench.seconds / ROUNDS / 2))
            cpu, own = server.cpu(), time.process_time()
            load = bench.load(closed_loop(bench.client(server), CLIENTS, bench.seconds / ROUNDS))
            images = max(1, len(load.of(200)))
            served.append((load.rate, 1000 * (server.cpu() - cpu) / images))
            client.append(1000 * (time.process_time() - own) / images)
            total.answers += load.answers
            total.seconds += load.seconds
    bench.saturation = total.rate
    (engine, engine_cpu), (rate, cpu_ms) = np.median(alone, axis=0), np.median(served, axis=0)
    ratios = [100 * here / there for (here, _), (there, _) in zip(served, alone, strict=True)]
    yield f"{CLIENTS} clients, an image each", told(total)
    yield "images/s at saturation", f"{rate:.1f} (median of {ROUNDS} rounds); {total.times}"
    yield "the library alone, images/s", f"{engine:.1f}"
    yield (
        "of the library's rate (goal: 85 %)",
        f"{np.median(ratios):.0f} % ({min(ratios):.0f} to {max(ratios):.0f} %)",
    )
    yield (
        "CPU time of an image",
        f"library {engine_cpu:.2f} ms, server {cpu_ms:.2f} ms, client {np.median(client):.2f} ms",
    )


def near_saturation(bench: Bench) -> Iterator[Row]:
    with bench.server() as server:
        alone = bench.load(closed_loop(bench.client(server), 1, bench.seconds / 2))
        load = bench.load(poisson(bench.client(server), 0.8 * bench.saturation, bench.seconds))
    p99, least = load.quantile(0.99, 200), alone.quantile(0.99, 200)
    yield "one client, alone", f"p50 {alone.quantile(0.5, 200):.1f} ms, p99 {least:.1f} ms"
    yield "Poisson load at 80 % of saturation", f"{told(load)}; {load.times}"
    yield "p99 over that of one client (goal: at most 5)", f"{p99 / least:.1f}"


def overload(bench: Bench) -> Iterator[Row]:
    with (
        tempfile.TemporaryFile("w+") as log,
        bench.server("--timeout-s", "5", "--log-format", "json", log=log) as server,
    ):
        bench.load(closed_loop(bench.client(server), CLIENTS, 3.0))
        before = server.memory()
        load = bench.load(poisson(bench.client(server), 3 * bench.saturation, bench.seconds))
        ended, after = time.monotonic(), server.memory()
        while True:
            probe = bench.load(closed_loop(bench.client(server), 1, 0.1))
            if probe.quantile(1.0, 200) < 500:
                break
        recovered = time.monotonic() - ended
        time.sleep(0.5)  # for the last lines of the log
        log.seek(0)
        lines = [json.loads(line) for line in log if line.startswith("{")]
    inside = Load([Answer(503, line["duration_ms"] / 1000, 0.0, 0) for line in lines if line.get("status") == 503])
    yield "three times saturation", f"{told(load)}, {load.rate:.1f} images/s"
    yield "admitted: p99 (deadline 5000 ms)", f"{load.quantile(0.99, 200):.0f} ms"
    yield (
        "refused, as the client sees it: p50, p99 (goal: 100 ms)",
        f"{load.quantile(0.5, 503):.1f} ms, {load.quantile(0.99, 503):.1f} ms",
    )
    yield (
        "refused, from the headers to the answer in the server's log",
        f"p50 {inside.quantile(0.5, 503):.1f} ms, p99 {inside.quantile(0.99, 503):.1f} ms",
    )
    yield "memory", f"{before:.0f} MB before, {after:.0f} MB after"
    yield "recovered after (goal: 5 s)", f"{recovered:.1f} s"


def slow(bench: Bench) -> Iterator[Row]:
    async def both(server: Server) -> Load:
        holding = asyncio.create_task(slow_clients(server.port, 500, bench.seconds / 2))
        await asyncio.sleep(1.0)
        load = await closed_loop(bench.client(server), 1, bench.seconds / 2 - 2)
        await holding
        return load

    with bench.server() as server:
        alone = bench.load(closed_loop(bench.client(server), 1, bench.seconds / 2))
        load = bench.load(both(server))
    yield "one client beside 500 slow ones", f"{told(load)}; p99 {load.quantile(0.99, 200):.1f} ms"
    yield "the same client alone", f"p99 {alone.quantile(0.99, 200):.1f} ms"


def endings(bench: Bench) -> Iterator[Row]:
    """SIGTERM under load: what was sent before the signal must be answered, or refused with 503."""
    chance, lost, wrong, codes, took, left = random.Random(1), 0, 0, [], [], 0
    for _ in range(ENDINGS):
        with bench.server() as server:

            async def ended(server: Server = server) -> tuple[Load, float]:
                client = bench.client(server)
                task = asyncio.create_task(closed_loop(client, 16, 3.0))
                await asyncio.sleep(chance.uniform(0.5, 1.5))
                at = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
                return await task, at

            load, at = bench.load(ended())
            codes.append(server.process.wait(60))
            took.append(time.monotonic() - at)
            left += not socket.socket().connect_ex(("127.0.0.1", server.port))
            lost += sum(answer.status == 0 and answer.sent < at for answer in load.answers)
            wrong += load.wrong
    yield (
        f"SIGTERM under load, {ENDINGS} times",
        f"exit codes {sorted(set(codes))}, {lost} requests lost, {wrong} wrong",
    )
    yield "ports left open", str(left)


def peers(bench: Bench) -> Iterator[Row]:
    """All servers run at once and take turns, one round after the other."""
    with ExitStack() as stack:
        servers, loads = {}, {}
        for name in ("seresnet", "fastapi", "litserve"):
            try:
                servers[name] = stack.enter_context(bench.server() if name == "seresnet" else bench.peer(name))
                loads[name] = Load(), Load(), []
            except SystemExit as error:
                yield name, f"not measured: {error}"
        for _ in range(ROUNDS):
            for name, server in servers.items():
                peer = "" if name == "seresnet" else name
                load = bench.load(closed_loop(bench.client(server, peer), CLIENTS, bench.seconds / ROUNDS))
                flood = bench.load(
                    poisson(bench.client(server, peer), 3 * bench.saturation, bench.seconds / ROUNDS / 2)
                )
                for total, more in zip(loads[name], (load, flood), strict=False):
                    total.answers += more.answers
                    total.seconds += more.seconds
                loads[name][2].append(load.rate)
    for name, (load, flood, rates) in loads.items():
        found = f"{np.median(rates):.1f} images/s ({min(rates):.1f} to {max(rates):.1f})"
        yield f"{name}: {CLIENTS} clients", f"{found}, {load.times}; {told(load)}"
        yield f"{name}: three times saturation", f"{flood.times} of those answered; {told(flood)}"


def start(bench: Bench) -> Iterator[Row]:
    """From the command to the first answer of a warm model, five times."""
    seconds, cpu = [], []
    for _ in range(5):
        began = time.monotonic()
        with bench.server() as server:
            bench.load(closed_loop(bench.client(server), 1, 0.0001))
            seconds.append(time.monotonic() - began)
            cpu.append(server.cpu())
    yield (
        "first answer after the command (goal: 2 s)",
        f"{np.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f}); {np.median(cpu):.1f} s of CPU time",
    )


def soak(bench: Bench) -> Iterator[Row]:
    """A share of saturation for all of ``--seconds``, in ten parts."""
    with bench.server() as server:
        rate = bench.share * bench.load(closed_loop(bench.client(server), CLIENTS, 5.0)).rate
        for part in range(10):
            load = bench.load(poisson(bench.client(server), rate, bench.seconds / 10))
            yield (
                f"part {part + 1} of 10, {rate:.1f} images/s",
                f"{told(load)}; {load.times}; {server.memory():.0f} MB",
            )


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (saturated, near_saturation, overload, slow, endings, start, peers, soak)
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=[name for name in SCENARIOS if name != "soak"])
    parser.add_argument("--share", type=float, default=0.5, help="of saturation, in soak (default: 0.5)")
    parser.add_argument("--arch", default=ARCH)
    parser.add_argument("--images", type=Path, help="photographs in place of those that are made")
    parser.add_argument("--record", type=Path, help="write the figures to this Markdown file")
    options = parser.parse_args(arguments)
    load, rows = record.load_average(), []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["SERESNET_CACHE"] = str(home / "cache")
        images = options.images or home / "photographs"
        if options.images is None:
            images.mkdir()
            write_photographs(images)
        paths = networks.photographs(images, COUNT)
        model = networks.weights(options.arch, paths, home, num_classes=len(paths))
        bench = Bench(model, paths, options.seconds, options.share)
        if "saturated" not in options.only:
            with bench.server() as server:
                bench.saturation = bench.load(closed_loop(bench.client(server), CLIENTS, 3.0)).rate
        for name in options.only:
            now = record.load_average()[0]
            for row in SCENARIOS[name](bench):
                rows.append((name, *row, f"{now:.1f}"))
                print(" | ".join(rows[-1]), flush=True)
    if options.record:
        text = re.sub(r"-serve-load\.md$", "", options.record.name)
        table = record.table(("scenario", "what", "found", "load average before"), rows)
        write_text(
            options.record,
            f"# {text}: `seresnet serve` under load\n\n{options.arch}, {len(bench.images)} photographs, "
            f"{options.seconds:g} s for each scenario, clients and server on the same cores.\n\n{table}\n"
            f"## Hardware and versions\n\n{record.hardware({}, load)}\n",
        )


if __name__ == "__main__":
    main()
