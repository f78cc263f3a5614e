"""Feature maps of a network as a list, for detection and segmentation: what timm calls ``features_only``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch._jit_internal import is_scripting

from seresnet.models.checkpointing import checkpointed_blocks
from seresnet.models.resnet import SEResNet, take_indices


class FeatureInfo:
    """What is known of each feature map: channels, how far the image is reduced, and the module that outputs it.

    ``info`` has a dictionary with ``num_chs``, ``reduction`` and ``module`` for each feature map of the network;
    ``out_indices`` are those that are returned. An index or a list of indices picks some of all; None, the returned.
    """

    def __init__(self, info: Sequence[dict[str, Any]], out_indices: Sequence[int]) -> None:
        self.info = [dict(item, index=index) for index, item in enumerate(info)]
        self.out_indices = tuple(out_indices)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """Return the value of ``key``: of one feature map, or a list of them."""
        if isinstance(idx, int):
            return self.info[idx][key]
        return [self.info[i][key] for i in (self.out_indices if idx is None else idx)]

    def get_dicts(self, keys: Sequence[str] | None = None, idx: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Return a dictionary for each feature map, of all keys or of some."""
        items = [self.info[i] for i in (self.out_indices if idx is None else idx)]
        return [dict(item) if keys is None else {key: item[key] for key in keys} for item in items]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return the numbers of channels."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return by how much the image's height and width are divided."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return the names of the modules that output the feature maps."""
        return self.get("module", idx)

    def __getitem__(self, item: int) -> dict[str, Any]:
        return self.info[item]

    def __len__(self) -> int:
        return len(self.info)


class FeatureNet(nn.ModuleDict):
    """A network up to the last feature map that is asked for; ``forward`` returns the list of feature maps.

    ``(N, in_chans, H, W)`` becomes one ``(N, channels, H / reduction, W / reduction)`` for each of ``out_indices`` (0:
    the stem's, then one for each stage; a number n for the last n), see ``feature_info``. The modules are the network's
    own, by their names in its state dict.
    """

    def __init__(self, network: SEResNet, out_indices: int | Sequence[int] | None = None) -> None:
        super().__init__()
        chosen = out_indices if out_indices is None or isinstance(out_indices, int) else list(out_indices)
        chosen = sorted(take_indices(len(network.feature_info), chosen))
        self.feature_info = FeatureInfo(network.feature_info, chosen)
        self.return_layers = {str(network.feature_info[i]["module"]): str(i) for i in chosen}
        for name, module in network.named_children():
            self[name] = module
            if name == network.feature_info[chosen[-1]]["module"]:
                break
        self.grad_checkpointing = network.grad_checkpointing
        self.preprocess = network.preprocess
        self.default_cfg = self.pretrained_cfg = network.pretrained_cfg

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Run each block again in the backward pass instead of keeping its activations: less memory, more time."""
        self.grad_checkpointing = enable

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for name, module in self.items():
            if not is_scripting() and self.grad_checkpointing and self.training and name.startswith("layer"):
                x = checkpointed_blocks(module, x)
            else:
                x = module(x)
            if name in self.return_layers:
                maps.append(x)
        return maps
