"""Image enhancement: a poor scan in, a better one out. Denoising, low dose, deblurring, super-resolution.

Learned from pairs (a poor scan and the good one), or from good scans alone that are made poor in a stated way
(`builder.degrade`). The network sees patches; whole scans go through it in tiles (`builder.tiling`), and come back in
their stored values (`builder.restored`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.measures.judged import Judged, of_pictures
from builder.measures.pictures import Pictures, truth
from builder.parts.training import LOSSES
from builder.spec import Data, Experiment, Node, Problem
from builder.task import Asked, Examined, Found, Objective, Restoration, Shown, Task, pooled_rows
from builder.views import View, back
from tasks import enhancement_checks, enhancement_figures, enhancement_starters

if TYPE_CHECKING:
    import torch

    from builder.augment import Augment
    from builder.data import Dataset
    from builder.scan import Scan
    from builder.targets import Target, Targets

_BATCH = 64
_SLICE_BY_SLICE = (
    "Image enhancement restores a series or volume slice by slice, each whole and at its own pixels: its figures, its "
    "trivial baselines and the layer Image at the end of a network are of pictures, and none is for volumes yet. "
    "Choose each."
)


class ImageEnhancement(Task):
    """Patches -> patches. Output: (C, scale H, scale W), normalized as the input is; the better picture itself."""

    name = "image_enhancement"
    title = "Image enhancement"
    label_kind = "picture"
    learns = ("picture",)
    headline = "psnr_db"
    metrics = {"psnr_db": True, "ssim": True, "rmse": False, "loss": False}
    losses = ("usual", "l1", "mse", "psnr", "charbonnier", "l1_ssim")
    leaves_out = {
        "training.test_time": ("small turns",),
        "data.fit": ("pad", "stretch", "crop"),
        "data.colour": ("neighbours",),
        "data.slices": ("middle", "mean", "maximum", "series", "volume"),
        "data.window": ("auto", "percentile", "ct lung", "ct soft tissue", "ct brain", "ct bone"),
        "training.balance": ("weights", "sampler"),
    }
    why_not = {"data.slices": dict.fromkeys(("series", "volume"), _SLICE_BY_SLICE)}
    keeps_grey = True
    says = "picture"
    no_export = dict.fromkeys(
        ("keras", "onnx", "torch-export"),
        "a restored scan is put together from tiles and turned back into its stored values, which this format does not "
        "carry; take the PyTorch project.",
    )
    demos = {"pictures": "dncnn", "finer": "edsr-lite-x2"}
    when = enhancement_starters.WHEN

    # -- what the network must be ---------------------------------------------------------------------------------

    def head(self, data: Data, num_classes: int) -> tuple[int | None, ...]:
        """A picture with the scan's channels, `Data.scale` times its size."""
        return (data.channels, data.size_px * data.scale, data.size_px * data.scale)

    def wanted(self, data: Data, num_classes: int) -> str:
        """The picture in words."""
        side, channels = data.size_px * data.scale, data.channels
        finer = f", {data.scale} times finer than the scan" if data.scale > 1 else ""
        return f"this task needs a picture of {channels} x {side} x {side}{finer}: end with the layer Image."

    def endings(self, experiment: Experiment, num_classes: int) -> list[tuple[str, Experiment]]:
        """An image head that learns the difference, set right or put at the end."""
        last, scale = experiment.network[-1], experiment.data.scale
        params = {"residual": True, "scale": scale} if scale > 1 else {"residual": True}
        if last.name == "image_head":
            own = experiment.replace(f"network.{last.id}.params.scale", scale)
            return [("Make its picture as fine as the task needs", own)]
        body = experiment.remove(last.id) if last.name in ("linear", "class_scores") else experiment
        if not body.network:
            return []
        node = Node(
            id=body.fresh_id("image_head"), name="image_head", params=params, inputs=(body.network[-1].id, "input")
        )
        return [("End with a picture that is added to the scan", body.insert(node))]

    # -- learning -------------------------------------------------------------------------------------------------

    def cases(self, dataset: Dataset, experiment: Experiment, split: str) -> np.ndarray:
        """Pairs, or every case where good scans are degraded."""
        if experiment.data.degrade.name == "none":
            return dataset.indices(split, by="target")
        return dataset.indices(split, labelled=False)

    def objective(self, experiment: Experiment, model: Any, train: Targets) -> Objective:
        """The chosen loss between normalized pictures; L1 where it is the usual one."""
        import torch

        from builder.batches import by_channel, normalization

        choice = experiment.training.loss
        part = LOSSES["l1" if choice.name == "usual" else choice.name]
        function, settings = part.load(), {**part.defaults, **choice.params}
        mean, std = normalization(experiment, train.prepared)

        class Lesson(torch.nn.Module):
            """A module, so that the normalization goes to the device with it."""

            def __init__(self) -> None:
                super().__init__()
                cpu = torch.device("cpu")
                self.register_buffer("mean", by_channel(mean, experiment.data, cpu))
                self.register_buffer("std", by_channel(std, experiment.data, cpu))

            def forward(self, output: torch.Tensor, target: Any) -> torch.Tensor:
                return function(output, (target.pictures - self.mean) / self.std, **settings)

        return Lesson()

    def vary(
        self, experiment: Experiment, images: torch.Tensor, target: Target, augment: Augment, chance: torch.Generator
    ) -> tuple[torch.Tensor, Target]:
        """Moves poor and good pictures alike; or moves the good one and makes it poor anew in each step."""
        from builder.degrade import degrade

        if target.pictures is not None:
            state = chance.get_state()
            moved = augment(images, chance).images
            chance.set_state(state)
            return moved, target.but(pictures=augment(target.pictures, chance).images)
        good = augment(images, chance).images
        return degrade(good, experiment.data.degrade, chance, target.grains).clone(), target.but(pictures=good)

    def pose(self, experiment: Experiment, images: torch.Tensor, target: Target) -> tuple[torch.Tensor, Target]:
        """Makes good pictures poor, each slice of each case always in the same way."""
        from builder.degrade import degrade

        if target.pictures is not None or target.cases is None or target.slices is None:
            return images, target
        seeds = [1_000_003 * case + place for case, place in zip(target.cases.tolist(), target.slices.tolist())]  # noqa: B905
        return degrade(images, experiment.data.degrade, seeds, target.grains).clone(), target.but(pictures=images)

    # -- judging while it learns ----------------------------------------------------------------------------------

    def answers(self, experiment: Experiment, model: Any, output: torch.Tensor, multi_label: bool) -> list[Any]:
        """The pictures (C, H', W') float32 as the network gives them, normalized."""
        return list(output.float().cpu().numpy())

    def together(self, experiment: Experiment, shown: Sequence[View], answers: Sequence[Sequence[Any]]) -> list[Any]:
        """The mean pictures (C, H', W') float32, normalized."""
        rows = zip(*answers, strict=True)
        return [np.mean([back(told, v) for told, v in zip(row, shown, strict=True)], axis=0) for row in rows]

    def scores(self, experiment: Experiment, answers: Sequence[Any], targets: Targets) -> dict[str, float]:
        """On the validation patches: PSNR and SSIM, whose range of values is the whole window; RMSE in Hounsfield units
        with "ct full", else as a share of that range. (`report` judges whole slices in windows that people look at.)"""
        import torch

        from builder.batches import Scans, by_channel, normalization
        from builder.restoration import ssim

        cpu = torch.device("cpu")
        mean, std = (by_channel(v, experiment.data, cpu) for v in normalization(experiment, targets.prepared))
        scans, errors, alike = Scans(targets.prepared, targets, cpu), [], []
        for start in range(0, len(answers), _BATCH):
            images, target = scans.batch(slice(start, start + _BATCH))
            good = images if target.pictures is None else target.pictures
            found = (torch.from_numpy(np.stack(answers[start : start + _BATCH])) * std + mean).clamp_(0, 1)
            errors += ((found - good) ** 2).mean((1, 2, 3)).tolist()
            alike += ssim(found, good).tolist()
        squares = np.maximum(errors, 1e-10)
        unit = enhancement_figures.CT_RANGE_HU if experiment.data.window == "ct full" else 1.0
        return {
            "psnr_db": float(np.mean(-10 * np.log10(squares))),
            "ssim": float(np.mean(alike)),
            "rmse": float(np.sqrt(np.mean(errors))) * unit,
        }

    def shown(
        self,
        experiment: Experiment,
        answer: Any,
        settled: dict[str, float],
        restored: Callable[[np.ndarray], np.ndarray],
    ) -> Shown:
        """The restored picture."""
        return Shown(picture=restored(answer))

    # -- in use ---------------------------------------------------------------------------------------------------

    def found(self, asked: Asked, scan: Scan, answers: Sequence[Any]) -> Found:
        """The better scan, every slice of it, in the stored values of the scan."""
        return enhancement_figures.found(asked, scan, answers)

    def examined(
        self,
        asked: Asked,
        dataset: Dataset,
        cases: np.ndarray,
        progress: Callable[[int, int], None] | None = None,
    ) -> Examined:
        """Whole slices, restored by the network and by what needs no learning (`enhancement_figures.examined`)."""
        pairs = asked.experiment.data.degrade.name == "none"
        others = [
            found
            for split in ("val", "train")
            for found in self.cases(dataset, asked.experiment, split)
            if found not in set(cases.tolist())
        ]
        return enhancement_figures.examined(asked, dataset, cases, others, pairs, progress)

    def pooled(self, parts: Sequence[Examined]) -> Examined:
        """Slices below slices; settings of the filters are those of each run, examples none."""
        own = [
            {name: values for name, values in part.items() if name != "settings" and not name.startswith("example_")}
            for part in parts
        ]
        found = pooled_rows(own, ("ways", "windows", "bounds", "tissues"))
        return {**found, "settings": np.array(["" for _ in found["ways"]])}

    def truth(self, examined: Examined) -> dict[str, np.ndarray]:
        """As `measures.pictures.truth`, and which slices were looked at."""
        return {"slices": examined["slices"], **truth(Pictures.from_arrays(examined))}

    def report(
        self, examined: Examined, classes: tuple[str, ...], multi_label: bool, resamples: int, seed: int = 0
    ) -> dict[str, Any]:
        """Figures beside those of the baselines (`enhancement_figures.report`)."""
        return enhancement_figures.report(examined, resamples, seed)

    def judged(self, examined: Examined, num_classes: int) -> Judged | None:
        """As `measures.judged.of_pictures`."""
        return of_pictures(Pictures.from_arrays(examined), examined["cases"])

    def restorations(self, asked: Asked, dataset: Dataset, cases: np.ndarray, most: int) -> Iterator[Restoration]:
        """As `enhancement_figures.restorations`."""
        pairs = asked.experiment.data.degrade.name == "none"
        return enhancement_figures.restorations(asked, dataset, cases, most, pairs)

    # -- the way in -----------------------------------------------------------------------------------------------

    def problems(self, experiment: Experiment, fingerprint: Any) -> list[Problem]:
        """As `enhancement_checks.problems`."""
        return enhancement_checks.problems(experiment, fingerprint)

    def demo(self, seed: int, folder: Path, kind: str = "") -> Path:
        """Writes 96 synthetic slices without noise (see `phantoms`); a starter's degradation makes them poor."""
        if kind not in ("", *self.demos):
            raise ValueError(f"There is no demo set {kind!r}; there are {', '.join(self.demos)}.")
        return enhancement_starters.write_clean(folder, seed, size_px=128 if kind == "finer" else 96)

    def starters(self) -> tuple[Experiment, ...]:
        """Ready experiments, the simplest first."""
        return enhancement_starters.starters()
