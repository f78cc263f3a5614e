"""Fine-tune pretrained weights on your own labelled images."""

from seresnet.training.config import TrainConfig


def finetune() -> TrainConfig:
    """Fit a classifier to the features of pretrained weights, then train the whole network gently from there.

    Command: ``seresnet train DATA --recipe finetune --model legacy_seresnet50 --out runs/mine``. For a few images a
    class to tens of thousands in all, in class folders, or in a list with several labels an image. Where ``DATA`` has
    no validation images, a tenth of each class is held out; test images are not read.

    The classifier starts as a linear probe of the pretrained features (LP-FT, arXiv 2202.10054); its metrics are those
    of epoch 0, so ``best/`` is never worse than it. The batch is as large as leaves 16 steps to an epoch, 64 at most,
    in micro-batches that fit into memory, and the learning rate follows it. The classifier's rate is
    14.3 times the last stage's (10 and 0.7 times the schedule's), and each stage before it has 0.7 of the next one's
    (discriminative fine-tuning, arXiv 1801.06146, section 3.2). Batch norm takes the statistics of the batch from 4
    images on: with frozen statistics, training on 240 images collapsed to one class (``benchmarks/``). Below, they stay
    frozen and the gradient's norm is limited to 1. After each epoch the statistics are computed anew for the averaged
    weights (arXiv 2105.07576). The run ends after 10 epochs without a better validation score. The
    weights are averaged. Each image counts the same: ``--set class_weights=balanced`` gives each class of an unbalanced
    folder the same weight, which was worse for all in four runs.

    20 epochs of 3,068 photographs of about 400 pixels at ``size=64``, 8 to 18 minutes on two cores, gave 86.2 and 85.6
    % of 341 validation images with two seeds (``benchmarks/2026-11-25-few-images.md``), and 88.3 and 87.4 % before the
    classifier started as a linear probe (``benchmarks/2026-11-23-clothing.md``).
    """
    return TrainConfig(
        model="seresnet20.cifar10",
        pretrained=True,
        linear_probe=True,
        freeze_bn="auto",
        precise_bn=True,
        crop="resized",
        crop_scale=(0.35, 1.0),
        val_fraction=0.1,
        epochs=40,
        global_batch_size=64,
        auto_batch_size=True,
        lr=0.02,
        lr_reference_batch=32,
        head_lr_scale=10.0,
        layer_decay=0.7,
        weight_decay=1e-4,
        warmup_epochs=1.0,
        ema_decay=0.99,
        patience=10,
    )
