"""Networks and files that the tests of this folder share."""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

import seresnet
from seresnet.models.resnet import SEResNet
from seresnet.models.variants import build
from tests.networks import randomized


def small(**overrides: object) -> SEResNet:
    """Return a network of the CIFAR table with statistics that matter, its ten classes named."""
    torch.manual_seed(0)
    model = randomized(build("seresnet20", **overrides)).eval()
    model.labels = [f"kind {i}" for i in range(model.num_classes)]
    model.preprocess = seresnet.Preprocess((3, 32, 32), crop_pct=1.0).with_channels(model.in_chans)
    return model


def equal(one: nn.Module, other: nn.Module) -> bool:
    """Tell whether two networks hold the same numbers, bit for bit, under the same names."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def logits(model: nn.Module, size: int = 64, count: int = 2) -> Tensor:
    """Return a network's logits of fixed noise, in evaluation mode."""
    channels = next(model.parameters()).shape[1]
    x = torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model.eval()(x)


class _OldTensor:
    """Pickles as torch 0.3 (version 1) or torch 0.4 to 1.1 (version 2) pickled a tensor."""

    def __init__(self, tensor: Tensor, version: int) -> None:
        self.tensor, self.version = tensor, version

    def __reduce__(self):
        tensor = self.tensor
        arguments = (tensor.untyped_storage(), tensor.storage_offset(), tuple(tensor.size()), tensor.stride())
        if self.version == 1:
            return torch._utils._rebuild_tensor, arguments
        return torch._utils._rebuild_tensor_v2, (*arguments, False, OrderedDict())


def write_legacy(state: dict[str, Tensor], path: Path, version: int = 2) -> None:
    """Write float tensors in the layout of torch 0.3 (version 1) or 0.4 to 1.1 (2), from a GPU.

    A magic number, the protocol, facts of the machine, the pickle, the storages' keys, then the storages: not an
    archive. The published weights of the legacy networks are such files.
    """
    storages: dict[str, torch.UntypedStorage] = {}

    class Pickler(pickle._Pickler):
        def persistent_id(self, thing: object):
            if not isinstance(thing, torch.UntypedStorage):
                return None
            storages[key := str(thing._cdata)] = thing
            return "storage", torch.FloatStorage, key, "cuda:0", thing.nbytes() // 4, None

    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    pickled = OrderedDict((key, _OldTensor(tensor, version)) for key, tensor in state.items())
    if version == 2:  # since torch 0.4 each module writes its version beside its tensors
        pickled._metadata = OrderedDict({"": {"version": 1}, "layer0.bn1": {"version": 2}})
    with path.open("wb") as file:
        for value in (0x1950A86A20F9469CFC6C, 1001, system):
            pickle.dump(value, file, 2)
        Pickler(file, 2).dump(pickled)
        pickle.dump(sorted(storages), file, 2)
        for key in sorted(storages):
            values = torch.empty(0).set_(storages[key]).numpy()
            file.write(struct.pack("<q", len(values)))
            values.tofile(file)
