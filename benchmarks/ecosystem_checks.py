"""The checks of `ecosystem.py` with other packages than timm: each returns what was compared, and the result."""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import seresnet
from seresnet.models.resnet import SEResNet
from tests.models.pairs import difference, images, make_pair
from tests.networks import randomized

EXACT = 1e-5  # largest relative difference between two orders of the same arithmetic


def network(arch: str = "seresnet20", **settings: Any) -> SEResNet:
    """Return a network whose batch norms are no longer those of a new one."""
    torch.manual_seed(0)
    return randomized(seresnet.create_model(arch, num_classes=10, **settings))


def digits(count: int = 320) -> tuple[Tensor, Tensor]:
    """Return handwritten digits of scikit-learn as ``(count, 3, 32, 32)`` in -1 to 1, and their classes."""
    data = load_digits()
    pixels = torch.tensor(data.images[:count], dtype=torch.float32)[:, None] / 8 - 1
    return F.interpolate(pixels, (32, 32), mode="bilinear").repeat(1, 3, 1, 1), torch.tensor(data.target[:count])


def fell(losses: list[float]) -> str:
    """Return the first and the last of losses, which have to fall by a third."""
    assert losses[-1] < losses[0] * 2 / 3, losses
    return f"loss {losses[0]:.2f} to {losses[-1]:.2f}"


def lora() -> tuple[str, str]:
    from peft import LoraConfig, get_peft_model

    x, y = digits(64)
    targets = ["fc1", "fc2", "conv1", "conv2"]  # the excitations, and the convolutions of each block and the stem
    model = get_peft_model(network(), LoraConfig(r=4, target_modules=targets, lora_dropout=0.0))
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(model.train()(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    adapters = [p for name, p in model.named_parameters() if "lora_B" in name]
    assert len(adapters) == 9 * 4 + 1 and all(p.abs().max() > 0 for p in adapters)
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    expected = model.eval()(x)
    merged = model.merge_and_unload().eval()
    assert isinstance(merged, SEResNet)
    apart = max(difference(merged(x), expected), difference(seresnet.fuse(merged)(x), expected))
    assert apart <= 10 * EXACT
    return "LoRA on every convolution and excitation, 12 steps; merged, and merged and fused, with adapters", (
        f"{fell(losses)}; all {len(adapters)} adapters moved, no frozen weight did; logits differ by {apart:.0e}"
    )


def captum() -> tuple[str, str]:
    from captum.attr import DeepLift, GuidedBackprop, IntegratedGradients, LayerGradCam

    apart = {"GuidedBackprop": 0.0, "IntegratedGradients": 0.0, "Grad-CAM": 0.0}
    for arch in ("legacy_seresnet18", "legacy_seresnext26_32x4d", "seresnet18", "seresnetaa50d"):
        ours, theirs = make_pair(arch)
        x = images(2, 64, 64).requires_grad_()
        for name in apart:
            found = []
            for model in (copy.deepcopy(ours), copy.deepcopy(theirs)):
                if name == "Grad-CAM":
                    found.append(LayerGradCam(model, model.layer4).attribute(x, target=3))
                elif name == "GuidedBackprop":
                    found.append(GuidedBackprop(model).attribute(x, target=3))
                else:
                    found.append(IntegratedGradients(model).attribute(x, target=3, n_steps=8))
            apart[name] = max(apart[name], difference(*(t.detach() for t in found)))
        # timm's legacy blocks reuse their ReLU, and its sigmoid is no module that captum knows: nothing to compare with
        found = [DeepLift(m).attribute(images(2, 64, 64).to(m.fc.weight), target=3) for m in (ours, ours.double())]
        assert difference(found[0].double(), found[1]) <= 1e-4
    assert max(apart.values()) <= EXACT
    return "4 networks with timm's; DeepLift, which raises on timm's legacy blocks, in float32 with float64", (
        ", ".join(f"{name} differs by {value:.0e}" for name, value in apart.items()) + "; DeepLift runs on all"
    )


def lightning() -> tuple[str, str]:
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.losses = network(drop_path_rate=0.1), []

        def training_step(self, batch: Any, _: int) -> Tensor:
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-3)

    x, y = digits()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 64)
    model = Module()
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        trainer = L.Trainer(max_epochs=4, accelerator="cpu", default_root_dir=folder, **quiet)
        trainer.fit(model, loader)
        path = Path(folder) / "last.ckpt"
        trainer.save_checkpoint(path)
        again = Module.load_from_checkpoint(path).eval()
        apart = (again.net(x) - model.net.eval()(x)).abs().max().item()
        bare = seresnet.create_model(str(path), pretrained=True, arch="seresnet20").eval()
        apart = max(apart, (bare(x) - model.net(x)).abs().max().item())
    assert apart == 0
    return "4 epochs; logits after load_from_checkpoint, and after create_model of the .ckpt", (
        f"{fell(model.losses)}; logits equal"
    )


def trainer() -> tuple[str, str]:
    from transformers import Trainer, TrainingArguments

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
            logits = self.net(pixel_values)
            return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}

    x, y = digits()
    rows = [{"pixel_values": a, "labels": b} for a, b in zip(x, y, strict=True)]
    model = Classifier()
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "dataloader_num_workers": 0}
        settings = {"num_train_epochs": 4, "per_device_train_batch_size": 64, "learning_rate": 1e-3, "logging_steps": 1}
        run = Trainer(model, TrainingArguments(folder, save_strategy="epoch", **settings, **quiet), train_dataset=rows)
        run.train()
        found = run.predict(rows).predictions
        losses = [line["loss"] for line in run.state.log_history if "loss" in line]
        last = sorted(Path(folder).glob("checkpoint-*"), key=os.path.getmtime)[-1] / "model.safetensors"
        again = Classifier()
        from safetensors.torch import load_file

        again.load_state_dict(load_file(last))
    with torch.no_grad():
        apart = max(difference(torch.tensor(found), m.eval().net(x)) for m in (model, again))
    assert apart <= EXACT
    return "Trainer, 4 epochs; logits of predict, and of its saved safetensors", (
        f"{fell(losses)}; logits differ by {apart:.0e}"
    )


def fastai() -> tuple[str, str]:
    from fastai.callback.progress import ProgressCallback
    from fastai.data.core import DataLoaders
    from fastai.vision.learner import create_body, vision_learner

    for arch in ("seresnet18", "legacy_seresnext26_32x4d", "seresnetaa50d"):  # cut where fastai itself would cut
        ours, theirs = make_pair(arch)
        body = create_body(ours, pretrained=False).eval()
        x = images(1, 64, 64)
        assert difference(body(x), theirs.forward_features(x)) <= EXACT
    x, y = digits()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 64)
    data = DataLoaders(loader, loader, device=torch.device("cpu"))
    learner = vision_learner(
        data, lambda pretrained: network(), n_out=10, pretrained=False, normalize=False, loss_func=nn.CrossEntropyLoss()
    )
    learner.unfreeze()
    learner.remove_cb(ProgressCallback)
    learner.recorder.silent = True
    learner.fit(4, 1e-3)
    losses = [float(loss) for loss in learner.recorder.losses]
    return "create_body's own cut with timm's forward_features, 3 networks; vision_learner, 4 epochs", (
        f"equal; {fell(losses)}"
    )


class Encoder(nn.Module):
    """An encoder as segmentation-models-pytorch writes them for ResNets: the stages of a network, by attribute."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net, self.out_channels, self._depth = net, [3, 64, 64, 128, 256, 512], 5

    def forward(self, x: Tensor) -> list[Tensor]:
        net, maps = self.net, [x]
        x = net.act1(net.bn1(net.conv1(x)))
        maps.append(x)
        x = net.maxpool(x)
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = stage(x)
            maps.append(x)
        return maps


def smp() -> tuple[str, str]:
    import segmentation_models_pytorch as package

    ours, theirs = make_pair("seresnet18")
    x = images(2, 64, 64)
    torch.manual_seed(0)
    unet = package.Unet("resnet18", encoder_weights=None, classes=4)
    masks = []
    for net in (ours, theirs):
        model = copy.deepcopy(unet)
        model.encoder = Encoder(net)
        model.eval()(x).square().mean().backward()
        masks.append(model(x).detach())
    apart = difference(*masks)
    grads = [torch.cat([p.grad.flatten() for p in m.layer2.parameters()]) for m in (ours, theirs)]
    apart = max(apart, difference(*grads))
    assert apart <= EXACT
    seresnet.register_with_timm()
    whole = package.Unet("tu-seresnet_legacy_seresnet18", encoder_weights=None, classes=4)
    loss = whole(x).square().mean()
    loss.backward()
    assert all(p.grad is not None for p in whole.encoder.parameters()) and whole(x).shape == (2, 4, 64, 64)
    return "a U-Net on an encoder by attribute with timm's: masks and gradients; `tu-seresnet_legacy_seresnet18`", (
        f"differ by {apart:.0e}; trains"
    )


def accelerate() -> tuple[str, str]:
    from accelerate import Accelerator

    x, y = digits()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 64)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = network()
    model, optimizer, loader = accelerator.prepare(model, torch.optim.Adam(model.parameters(), 1e-3), loader)
    losses = []
    for _ in range(4):
        for images_, classes in loader:
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(images_), classes)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
    with tempfile.TemporaryDirectory() as folder:
        accelerator.save_model(model, folder)
        again = network()
        from safetensors.torch import load_file

        again.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    assert torch.equal(again.eval()(x), accelerator.unwrap_model(model).eval()(x))
    return "4 epochs with accumulation; logits of the saved model", f"{fell(losses)}; logits equal"
