"""Run ``seresnet train`` with every step's loss written down, and die where asked: what resume has to survive.

``python -m tests.training.driver [options] -- train DATA ...``. Under torchrun every process runs it. It changes
nothing of the run itself: the losses are read off `Trainer.state` after each step, in hexadecimal, that is to the last
bit.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

import torch

RANK = int(os.environ.get("RANK", "0"))


FATAL = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}  # a stopped process is like a machine that is cut off


def die(way: str = "kill") -> None:
    os.kill(os.getpid(), FATAL[way])


def record_losses(path: Path) -> None:
    """Append ``step loss`` after each step, flushed; the loss is the sum over the epoch so far, and all its bits."""
    from seresnet.training.trainer import Trainer

    step = Trainer.step
    file = path.open("a", buffering=1)

    def recorded(self, group):
        before = self.state.loss_sum
        images = step(self, group)
        file.write(f"{self.state.step} {(self.state.loss_sum - before) / images:.17g} {self.state.loss_sum.hex()}\n")
        return images

    Trainer.step = recorded


def die_in_step(number: int, micro: int, way: str) -> None:
    """End this process in step ``number`` (from 1), between the passes of micro-batch ``micro`` (from 0)."""
    from seresnet.training.step import TrainStep

    forward = TrainStep.forward

    def fatal(self, batch, uniform, step, which):
        result = forward(self, batch, uniform, step, which)
        if (step + 1, which) == (number, micro):
            die(way)
        return result

    TrainStep.forward = fatal


def signal_in_step(number: int, signum: int) -> None:
    """Send this process a signal in step ``number`` (from 1), as it would come from outside."""
    from seresnet.training.step import TrainStep

    forward = TrainStep.forward

    def signalled(self, batch, uniform, step, which):
        if (step + 1, which) == (number, 0):
            os.kill(os.getpid(), signum)
        return forward(self, batch, uniform, step, which)

    TrainStep.forward = signalled


def die_in_write(number: int, share: float) -> None:
    """Kill this process in the writing of checkpoint ``number`` (from 1), when ``share`` of its bytes are written."""
    from seresnet.training import checkpoint

    written = [0]
    save = torch.save

    def fatal(state, file):
        written[0] += 1
        if written[0] < number:
            save(state, file)
            return
        import io

        whole = io.BytesIO()
        save(state, whole)
        file.write(whole.getvalue()[: int(share * whole.tell())])
        file.flush()
        if share < 1:
            die()
        fsync = os.fsync
        os.fsync = lambda descriptor: (fsync(descriptor), die())

    checkpoint.torch.save = fatal


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--losses", type=Path)
    parser.add_argument("--die-in-step", type=int, nargs=2, metavar=("STEP", "MICRO"))
    parser.add_argument("--die-in-write", type=float, nargs=2, metavar=("NUMBER", "SHARE"))
    parser.add_argument("--way", choices=FATAL, default="kill")
    parser.add_argument("--heartbeat-timeout", type=float, help="seconds after which a rank counts as dead")
    parser.add_argument("--rank", type=int, default=0, help="the process that dies")
    parser.add_argument("--checkpoint-steps", type=int, help="write a checkpoint after each so many steps")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.losses and RANK == 0:
        record_losses(options.losses)
    if options.heartbeat_timeout:
        from seresnet.training import ranks

        ranks.HEARTBEAT_TIMEOUT = options.heartbeat_timeout
    if options.checkpoint_steps:
        checkpoint_every(options.checkpoint_steps)
    if options.rank == RANK and options.die_in_step:
        die_in_step(*options.die_in_step, options.way)
    if options.rank == RANK and options.die_in_write:
        die_in_write(int(options.die_in_write[0]), options.die_in_write[1])
    from seresnet.cli import run

    return run(options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments)


def checkpoint_every(steps: int) -> None:
    """Write a checkpoint after each so many steps; a run does so by the clock."""
    from seresnet.training.trainer import Trainer

    step = Trainer.step

    def saving(self, group):
        images = step(self, group)
        if self.state.step % steps == 0:
            self.save_checkpoint()
        return images

    Trainer.step = saving


if __name__ == "__main__":
    sys.exit(main())
