"""A run of a few steps, for tests and as a smoke test."""

from seresnet.training.config import TrainConfig


def debug() -> TrainConfig:
    """Take ten steps on 32x32 pixels.

    Command: ``seresnet train DATA --recipe debug --out runs/debug``. Seconds anywhere; the accuracy means nothing.
    """
    return TrainConfig(
        model="seresnet20",
        size=32,
        crop="center",
        pad=2,
        val_fraction=0.2,
        epochs=2,
        global_batch_size=16,
        lr=0.05,
        warmup_epochs=0.5,
        ema_decay=0.9,
    )
