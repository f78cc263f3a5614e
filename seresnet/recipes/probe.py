"""Fit a classifier to the features of pretrained weights, and train nothing else."""

from seresnet.training.config import TrainConfig


def probe() -> TrainConfig:
    """Fit a linear classifier to the features of a pretrained network, in the time of one pass over the images.

    Command: ``seresnet train DATA --recipe probe --model legacy_seresnet50 --out runs/probe``. For a first answer from
    ten to some hundred thousand images, in class folders or in a list with several labels an image; `finetune` starts
    from the same classifier and goes on. Where ``DATA`` has no validation images, a tenth of each class is held out;
    they choose the weight decay. The features are computed once, by the engine that is fastest in prediction, without
    augmentation.

    Source: multinomial logistic regression by L-BFGS, with the weight decay chosen on held-out
    images, as in arXiv 1805.08974.
    """
    return TrainConfig(
        model="seresnet20.cifar10",
        pretrained=True,
        linear_probe=True,
        freeze_bn=True,
        crop="center",
        hflip=0.0,
        val_fraction=0.1,
        epochs=0,
        global_batch_size=64,
        auto_batch_size=True,
        ema_decay=None,
    )
