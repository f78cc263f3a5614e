"""Fine-tune pretrained weights on a folder of labelled images."""

from seresnet.train.config import TrainConfig


def finetune() -> TrainConfig:
    """Put a new classifier on pretrained weights and train the whole network gently.

    Command: ``seresnet train DATA --recipe finetune --model seresnet20.cifar10 --out runs/mine``. Minutes on a laptop
    for a thousand small images. The classifier learns ten times as fast as the rest (as in arXiv 1411.1792's follow-ups
    and torchvision's transfer examples), and the weights are averaged.
    """
    return TrainConfig(
        model="seresnet20.cifar10",
        pretrained=True,
        crop="resized",
        crop_scale=(0.5, 1.0),
        val_fraction=0.1,
        epochs=15,
        global_batch_size=32,
        lr=0.02,
        head_lr_scale=10.0,
        weight_decay=1e-4,
        warmup_epochs=1.0,
        ema_decay=0.99,
    )
