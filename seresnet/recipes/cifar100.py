"""Train an SE-ResNet on CIFAR-100 from scratch."""

from seresnet.training.config import TrainConfig


def cifar100() -> TrainConfig:
    """Train on 32x32 photographs of a hundred classes for 164 epochs, the rate divided by ten after 82 and 123.

    Command: ``seresnet train CIFAR100 --recipe cifar100 --out runs/cifar100``, where ``CIFAR100`` has
    ``train/<class>/*`` and ``test/<class>/*``. Of the training images 2 % are held out to watch the run; the paper
    trains on all of them. Time and result: not run here.

    Published, for another network: 76.15 % top-1 (23.85 % error) for SE-ResNet-110 and 26.88 % error without
    excitation (arXiv 1709.01507). Its baseline is the pre-activation ResNet-110 of arXiv 1603.05027. ``seresnet110``
    here is the network of arXiv 1512.03385, with the ReLU after the addition and projection shortcuts. And the paper's
    reduction of 16 leaves an excitation of width 1 at 16 channels, where this network's is at least 8 wide
    (`SEResNetConfig.squeeze_divisor`): with 10 classes 1,765,418 parameters against 1,744,952.

    Source: the schedule of arXiv 1512.03385, section 4.2, whose networks these are: shift by up to 4 pixels, mirror,
    batch 128, rate 0.1, 64,000 steps. That paper starts 110 layers at a rate of 0.01 for about 400 steps; here the
    rate rises over the first epoch.
    """
    return TrainConfig(
        model="seresnet110",
        size=32,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        crop_pct=1.0,
        crop="center",
        pad=4,
        val_fraction=0.02,
        epochs=164,
        global_batch_size=128,
        lr=0.1,
        nesterov=False,
        weight_decay=1e-4,
        decay_norms=True,
        schedule="step",
        step_epochs=(82, 123),
        step_gamma=0.1,
        warmup_epochs=1.0,
        ema_decay=None,
    )
