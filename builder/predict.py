"""A run and a scan give a finding: probabilities, where the network looked, and what happens when a region is covered.

A run is rebuilt from its folder alone: the network from `experiment.json`, the weights from `best.safetensors`
(verified), the preprocessing and normalisation of its training from what was stored beside the weights. The data set
may be gone.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder import checkpoint as checkpoints
from builder import cutting, leaks, network, task, tiling, views, voxels
from builder.data import chosen, prepare, quantize
from builder.gathering import SourceRefused, gather
from builder.sandbox import Sandbox
from builder.scans import Scan, Unreadable
from builder.spec import Data, Experiment, SpecError
from builder.terms import ANSWERED, REFUSED, Terms

if TYPE_CHECKING:
    import torch

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as fractions (0..1) of the prepared picture, from its top left corner."""

_BATCH = 64
_NUMBERS = ("mean", "std")


class PredictError(ValueError):
    """A run that cannot answer, or a question it cannot be asked. Its text is one sentence for people."""


@dataclass(frozen=True)
class Covered:
    """What covering a region changes: `probabilities` with `box` blanked; `change`: those minus the whole scan's."""

    box: Box
    probabilities: dict[str, float]
    change: dict[str, float]


@dataclass(frozen=True)
class Finding:
    """What a run says of one scan.

    Attributes:
        probabilities: by class, each 0..1; they sum to 1 unless the task is multi-label. {} where the task tells none.
        top: the class with the largest probability, "" without one.
        heatmap: (H, W), or (S, H, W) of several slices, float32 in [0, 1], largest value 1: where the evidence for
            `top` lies (Grad-CAM); None where the network has no layer that keeps height and width, or nothing speaks
            for `top`.
        image: (C, H, W), (S, C, H, W) or (C, D, H, W) as `layout` ("maps", "series", "volume") says, float32 in [0, 1]:
            exactly what the network saw.
        covered: one entry for each region asked for.
        found: boxes, outline, enhanced picture and figures, on the scan's own grid, as the task tells them.
        notes: warnings and remarks in words.
        slices: which slices of the scan were seen, in order, counted from 1 (0: a black one); () for one picture.
        num_slices: how many slices the scan has.
        status: "answered"; "unknown" where the run keeps silent about the class, "refused" where it is not asked at all
            (see `terms`); then `reason` says why, and `top` is "".
        likeliest: the class with the largest probability, told or not. uncalibrated: the probabilities as the network
            gives them, where a temperature is put to them; {} otherwise.
    """

    probabilities: dict[str, float]
    top: str
    heatmap: np.ndarray | None
    image: np.ndarray
    covered: tuple[Covered, ...] = ()
    notes: tuple[str, ...] = ()
    slices: tuple[int, ...] = ()
    num_slices: int = 1
    layout: str = "maps"
    found: task.Found = field(default_factory=task.Found)
    status: str = ANSWERED
    reason: str = ""
    likeliest: str = ""
    uncalibrated: dict[str, float] = field(default_factory=dict)

    @property
    def pictures(self) -> np.ndarray:
        """The picture, or the slices in order, as (S, C, H, W)."""
        if self.layout == "maps":
            return self.image[None]
        return self.image if self.layout == "series" else np.moveaxis(self.image, 1, 0)

    @property
    def telling(self) -> int:
        """The slice, counted from 0 among those seen, with the most evidence for `top`; the middle one without any."""
        if self.heatmap is None or self.heatmap.ndim == 2:
            return len(self.slices) // 2
        return int(self.heatmap.sum((1, 2)).argmax())

    def plain(self) -> dict[str, Any]:
        """The finding without its arrays, as JSON data; of a series or volume also {slices: {of, seen, telling}}, of
        tasks that tell more also {boxes, outline, enhanced, facts}; {status, reason, likeliest} where the run does not
        answer, {uncalibrated} where a temperature is put to its probabilities."""
        told: dict[str, Any] = {}
        if self.status != ANSWERED:
            told |= {"status": self.status, "reason": self.reason, "likeliest": self.likeliest}
        if self.uncalibrated:
            told["uncalibrated"] = self.uncalibrated
        if self.slices:
            told["slices"] = {"of": self.num_slices, "seen": list(self.slices), "telling": self.telling}
        if self.found.boxes is not None:
            told["boxes"] = [box.plain() for box in self.found.boxes]
        if self.found.outline is not None:
            told["outline"] = {"slices": np.flatnonzero(self.found.outline.any((1, 2))).tolist()}
        if self.found.enhanced is not None:
            told["enhanced"] = {"shape": list(self.found.enhanced.shape)}
        if self.found.facts:
            told["facts"] = self.found.facts
        return {
            "top": self.top,
            "probabilities": self.probabilities,
            "covered": [
                {"box": list(c.box), "probabilities": c.probabilities, "change": c.change} for c in self.covered
            ],
            "notes": list(self.notes),
            **told,
        }


@dataclass(frozen=True)
class Predictor:
    """A trained run, ready to answer. Made by `Predictor.open`.

    `leaky` is the stamp of a run that was measured on what it has learned from, "" without a leak.
    `epoch` is that of its weights; `step` is 0 but for weights that were saved while it learned.
    """

    experiment: Experiment
    classes: tuple[str, ...]
    multi_label: bool
    unit: int
    mean: np.ndarray
    std: np.ndarray
    weights_sha256: str
    net: torch.nn.Module
    fingerprint: dict[str, Any] = field(default_factory=dict)
    leaky: str = ""
    device: str = "cpu"
    settled: dict[str, float] = field(default_factory=dict)
    epoch: int = 0
    step: int = 0
    terms: Terms = field(default_factory=Terms)
    _grown: dict[int, torch.nn.Module] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, folder: Path, checkpoint: str = "best", device: str = "cpu") -> Predictor:
        """Rebuild the run in `folder`.

        Args:
            checkpoint: "best", the weights of the best epoch, or "last", the newest that a run has saved while it
                learns, paused or not.
        Raises:
            PredictError: no such run, nothing saved yet, a damaged or foreign checkpoint, weights of another network.
        """
        folder = Path(folder)
        try:
            experiment = Experiment.loads((folder / "experiment.json").read_bytes())
        except OSError:
            raise PredictError(f"There is no run {folder.name!r} here: its experiment.json is missing.") from None
        except SpecError as error:
            raise PredictError(f"The experiment of run {folder.name} cannot be read: {error}") from error
        try:
            stored, file = _stored(folder, checkpoint)
            facts = _facts(stored.metadata, experiment)
            net = network.assemble_of(experiment, len(facts["classes"]), trained=True)
            checkpoints.pour(stored.tensors, net, file.name)
        except checkpoints.CheckpointError as error:
            raise PredictError(str(error)) from error
        wild = [
            name
            for name, tensor in stored.tensors.items()
            if tensor.is_floating_point() and not tensor.isfinite().all()
        ]
        if wild:
            raise PredictError(f"The weights {file.name} hold values that are no finite numbers, first in {wild[0]}.")
        sha256 = _sha256(file)
        return cls(
            experiment=experiment,
            classes=tuple(facts["classes"]),
            multi_label=facts["multi_label"],
            unit=facts["unit"],
            mean=np.asarray(facts["mean"], np.float32),
            std=np.asarray(facts["std"], np.float32),
            weights_sha256=sha256,
            net=net.to(device).eval(),
            fingerprint=facts["fingerprint"],
            leaky=leaks.of_folder(folder, facts["fingerprint"]).stamp,
            device=device,
            settled=facts["settled"],
            epoch=facts["epoch"],
            step=facts["step"],
            terms=Terms.of(folder, sha256),
        )

    @property
    def num_slices(self) -> int:
        """How many slices the network sees at once; 1 for one picture."""
        return self.experiment.data.num_slices if self.experiment.data.layout != "maps" else 1

    @property
    def met(self) -> dict[str, Any]:
        """The facts about the training scans (`fingerprint`) with what was made of them: where it learned from scans
        that were made coarser, their sizes reach down to the coarser ones."""
        data, sizes = self.experiment.data, self.fingerprint.get("sizes")
        if data.degrade.name == "none" or data.scale == 1 or not sizes:
            return self.fingerprint
        return {**self.fingerprint, "sizes": {**sizes, "min": [side // data.scale for side in sizes["min"]]}}

    def prepared(self, scan: Scan, index: int | None = None) -> np.ndarray:
        """What the network sees of `scan`: float32 in [0, 1] of `spec.Data.shape`, on the steps of grey of training.

        Args:
            index: which slice, where every slice is a picture of its own.
        """
        image = prepare(scan, self.experiment.data, index)
        return quantize(image, self.unit).astype(np.float32) / np.float32(self.unit)

    def run(self, images: np.ndarray) -> torch.Tensor:
        """The raw output, float32 on the device, for prepared `images` (B, ...) float32 in [0, 1]."""
        output: torch.Tensor = self.net(self.tensor(images)).float()
        return output

    def answers(self, images: np.ndarray | Sequence[np.ndarray]) -> list[Any]:
        """What the run's task makes of prepared `images` (B, *spec.Data.shape) float32 in [0, 1]: one answer a row,
        averaged over the views that the document asks for.

        Of a run that was taught with patches: whole pictures (B, C, H, W) or volumes (B, C, D, H, W), or a list of such
        of different sizes.
        """
        import torch

        shown = views.VIEWS[self.experiment.training.test_time]
        if len(shown) == 1:
            return self._answers(images)
        told = []
        for view in shown:
            tensors = (torch.from_numpy(np.ascontiguousarray(image, np.float32)) for image in images)
            told.append(self._answers([views.seen(tensor, view).numpy() for tensor in tensors]))
        return self._kind.together(self.experiment, shown, told)

    def _answers(self, images: np.ndarray | Sequence[np.ndarray]) -> list[Any]:
        """One answer a row to `images` as they are."""
        import torch

        if self.experiment.data.blocks:
            return [self._windowed(image) for image in images]
        if self.experiment.data.fit == "patches":
            return [answer for image in images for answer in self._tiled(image)]

        size = max(1, _BATCH // self.num_slices)
        found: list[Any] = []
        with torch.inference_mode():
            for k in range(0, len(images), size):
                output = self.run(np.asarray(images[k : k + size]))
                found += self._kind.answers(self.experiment, self.net, output, self.multi_label)
        return found

    def _tiled(self, image: np.ndarray) -> list[Any]:
        """The one answer to a whole picture (C, H, W), of a run that was taught with patches."""
        import torch

        cut = self.cut(max(image.shape[-2:]))
        net = self._at(cut.side)

        def run(tile: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return net(self.tensor(tile)).float().cpu().numpy()

        output = torch.from_numpy(tiling.whole(image, run, cut, self.experiment.data.scale))[None]
        return self._kind.answers(self.experiment, self.net, output.to(self.device), self.multi_label)

    def _row(self, volume: np.ndarray) -> np.ndarray:
        """What an exported network says of a whole volume (C, D, H, W): one row."""
        import torch

        size, patch = volume.shape[1:], self.experiment.data.shape[1:]

        def pieces() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for corner in cutting.starts(size, patch, cutting.OVERLAP):
                with torch.inference_mode():
                    output = self.run(cutting.block(volume, corner, patch)[None])
                    told = self._kind.exported(self.experiment, self.net, output, self.multi_label)
                    yield corner, told[0].float().cpu().numpy()

        return cutting.joined_row(pieces(), patch, size, self.asked.outlined)

    def _windowed(self, volume: np.ndarray) -> Any:
        """The one answer to a whole volume (C, D, H, W), of a run that was taught with patches of volumes."""
        import torch

        size, patch = volume.shape[1:], self.experiment.data.shape[1:]
        corners = cutting.starts(size, patch, cutting.OVERLAP)
        step = max(1, _BATCH // self.num_slices)

        def pieces() -> Iterator[tuple[Sequence[int], Any]]:
            for k in range(0, len(corners), step):
                part = corners[k : k + step]
                with torch.inference_mode():
                    output = self.run(np.stack([cutting.block(volume, corner, patch) for corner in part]))
                    found = self._kind.answers(self.experiment, self.net, output, self.multi_label)
                yield from zip(part.tolist(), found, strict=True)

        return self._kind.joined(self.asked, pieces(), size)

    def block(self, volume: np.ndarray, inside: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """One patch of a volume (C, D, H, W) and its first voxel: around the middle of what is `inside` (D, H, W), of
        the volume where nothing is."""
        size, patch = volume.shape[1:], self.experiment.data.shape[1:]
        middle = np.array(size) // 2
        if inside is not None and inside.any():
            middle = np.argwhere(inside).mean(0).astype(np.int64)
        corner = cutting.corner(middle, size, patch)
        return cutting.block(volume, corner, patch), corner

    def cut(self, side: int) -> tiling.Cut:
        """How a picture whose longer side has `side` px is cut for this network (see `tiling`)."""
        if (sight := self.sight()) is not None:
            cut = tiling.seeing(*sight, side)
            if cut is not None and self._same_weights(cut.side):
                return cut
        return tiling.taught(self.experiment.data.size_px)

    def sight(self) -> tuple[int, int] | None:
        """How many px around a pixel the network sees, and how many times it halves its maps, as a factor; None where
        an answer depends on the whole picture."""
        large = 1024
        planned = network.plan_of(self.experiment.replace("data.size_px", large), len(self.classes))
        fields = planned.nodes[-1].receptive_field
        told = all(node.shape is not None and not node.message for node in planned.nodes)
        if not (told and planned.layout == "maps" and fields and max(fields) < large):
            return None
        deepest = min(min(node.shape[-2:]) for node in planned.nodes if node.shape and len(node.shape) == 3)
        return max(fields), max(1, large // deepest)

    def _same_weights(self, side: int) -> bool:
        """Whether the network has the very same weights where it sees squares of `side` px."""
        try:
            grown = self._at(side)
        except ValueError:
            return False
        own, other = self.net.state_dict(), grown.state_dict()
        return {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in other.items()}

    def _at(self, side: int) -> torch.nn.Module:
        """The network for squares of `side` px, with the weights of this one."""
        if side == self.experiment.data.size_px:
            return self.net
        if side not in self._grown:
            larger = self.experiment.replace("data.size_px", side)
            grown = network.assemble_of(larger, len(self.classes), trained=True)
            own = self.net.state_dict()
            if {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in grown.state_dict().items()}:
                grown.load_state_dict(own)
            self._grown[side] = grown.to(self.device).eval()
        return self._grown[side]

    def outputs(self, images: np.ndarray | Sequence[np.ndarray]) -> list[np.ndarray]:
        """What an exported network puts out for prepared `images` as they are, whatever views the document asks for:
        float32, one entry each (`Task.exported`); of a run that was taught with patches whole pictures (C, H', W'), 0
        and 1 the ends of the window, or one row of a whole volume (`cutting.joined_row`)."""
        import torch

        if self.experiment.data.blocks:
            return [self._row(image) for image in images]
        if self.experiment.data.fit == "patches":
            mean, std = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (self.mean, self.std))
            return [answer * std + mean for answer in self._answers(images)]
        found: list[np.ndarray] = []
        size = max(1, _BATCH // self.num_slices)
        with torch.inference_mode():
            for k in range(0, len(images), size):
                output = self.net(self.tensor(np.asarray(images[k : k + size]))).float()
                told = self._kind.exported(self.experiment, self.net, output, self.multi_label)
                found += list(told.float().cpu().numpy())
        return found

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Probabilities (B, K) float32 for prepared `images`, of a task that answers with them."""
        found = self.answers(images)
        return np.stack(found) if found else np.zeros((0, len(self.classes)), np.float32)

    @property
    def asked(self) -> task.Asked:
        """This run as its task may see it."""
        return task.Asked(
            experiment=self.experiment,
            classes=self.classes,
            multi_label=self.multi_label,
            model=self.net,
            answers=self.answers,
            device=self.device,
            mean=self.mean,
            std=self.std,
            unit=self.unit,
            settled=self.settled,
            fingerprint=self.fingerprint,
        )

    @property
    def _kind(self) -> task.Task:
        return task.find(self.experiment.task)

    def finding(self, scan: Scan, occlude: Sequence[Box] = ()) -> Finding:
        """What the run says of `scan`; each region in `occlude` is blanked once with the picture's median, of a series
        on every slice."""
        data, of, kind = self.experiment.data, len(scan.pixels), self._kind
        each = data.slices == "each"
        images, slices = self._seen(scan)
        answers = self.answers(images)
        found = kind.found(self.asked, scan, answers)
        notes = [
            *([self.leaky] if self.leaky else ()),
            *scan.notes,
            *differences(scan, self.met).values(),
            *found.notes,
        ]
        if said := views.words(self.experiment.training.test_time):
            notes.append(f"{said} A heat map shows the scan as it is.")
        if data.blocks:
            notes += _about_patches(data, (of, *scan.pixels.shape[2:]), images.shape[2:])
        elif not each:
            notes += _about_slices(slices, of)
        image, layout = (images, "series") if slices and each else (images[0], data.layout)
        heatmap, covered = None, tuple[Covered, ...]()
        if found.top:
            if data.blocks:
                heatmap = self._heat_of_block(image, found)
            elif slices and each:
                heatmap = self._heat(images, found)
            else:
                heatmap = self.heatmap(image, self.classes.index(found.top))
            if heatmap is None:
                notes.append(
                    "There is no heat map: no layer of this network that keeps height and width speaks for this class."
                )
        if kind.label_kind == "class":
            covered = self._covered(image, answers[0], occlude)
        elif occlude:
            raise PredictError(f"{kind.title} cannot be asked with regions covered.")
        told = tuple(dict.fromkeys(notes if not self.terms.note else [*notes, self.terms.note]))
        answer = self.terms.said(found.probabilities, self.multi_label)
        return Finding(
            probabilities=answer.probabilities,
            top=found.top if answer.status == ANSWERED else "",
            heatmap=heatmap,
            image=image,
            covered=covered,
            notes=told,
            slices=slices,
            num_slices=of,
            layout=layout,
            found=found,
            status=answer.status,
            reason=answer.reason,
            likeliest=found.top,
            uncalibrated=found.probabilities if answer.probabilities is not found.probabilities else {},
        )

    def refused(self, scan: Scan, reason: str) -> Finding:
        """What is told of a scan that the run is not asked about: the scan as it would be seen, and why not."""
        images, slices = self._seen(scan)
        each = slices and self.experiment.data.slices == "each"
        image, layout = (images, "series") if each else (images[0], self.experiment.data.layout)
        return Finding(
            {},
            "",
            None,
            image,
            (),
            (*filter(None, [self.leaky]), *scan.notes),
            slices,
            len(scan.pixels),
            layout,
            status=REFUSED,
            reason=reason,
        )

    def _seen(self, scan: Scan) -> tuple[np.ndarray, tuple[int, ...]]:
        """What the network is shown of a scan, one row an answer, and `Finding.slices`."""
        data, of = self.experiment.data, len(scan.pixels)
        each = data.slices == "each"
        images = np.stack([self.prepared(scan, k) for k in range(of)]) if each else self.prepared(scan)[None]
        slices: tuple[int, ...] = tuple(range(1, of + 1)) if each and of > 1 else ()
        if data.blocks:
            slices = voxels.seen(images.shape[2], of)
        elif data.layout != "maps":
            slices = tuple(index + 1 for index in chosen(of, data))
        return images, slices

    def _heat(self, images: np.ndarray, found: task.Found) -> np.ndarray | None:
        """Grad-CAM of the slice with the most outlined on it (the middle one without any), in its place among black
        ones: (S, H, W). Every slice would take S passes back."""
        at = len(images) // 2
        if found.outline is not None and found.outline.any():
            at = int(found.outline.sum((1, 2)).argmax())
        heat = self.heatmap(images[at], self.classes.index(found.top))
        if heat is None:
            return None
        stack = np.zeros((len(images), *heat.shape), np.float32)
        stack[at] = heat
        return stack

    def _heat_of_block(self, volume: np.ndarray, found: task.Found) -> np.ndarray | None:
        """Grad-CAM of the patch around what is outlined (the middle without any), in its place in the volume, which is
        black elsewhere: (D, H, W)."""
        size = volume.shape[1:]
        inside = None if found.outline is None else voxels.mask_in(found.outline, size)
        patch, corner = self.block(volume, inside)
        heat = self.heatmap(patch, self.classes.index(found.top))
        if heat is None:
            return None
        # A block that begins before the patch does is the patch's own part of the volume.
        return cutting.block(heat[None], -corner, size)[0].astype(np.float32)

    def _covered(self, image: np.ndarray, whole: np.ndarray, occlude: Sequence[Box]) -> tuple[Covered, ...]:
        boxes = [_checked(box) for box in occlude]
        if not boxes:
            return ()
        rows = self.probabilities(np.stack([blanked(image, box) for box in boxes]))
        return tuple(
            Covered(box, self._named(row), self._named(row - whole)) for box, row in zip(boxes, rows, strict=True)
        )

    def heatmap(self, image: np.ndarray, class_index: int) -> np.ndarray | None:
        """Grad-CAM of one prepared image for one class: (H, W) float32 in [0, 1], of several slices (S, H, W), or None
        (see `Finding`).

        Taken at the last layer that keeps a map and has something positive to show: behind a ReLU the absence of a
        pattern, which may be what speaks for the class, is cut to zero, and an earlier layer tells it.
        """
        for layer, layout in self._spatial_layers():
            found = self.net.get_submodule(f"layers.{layer}")
            inputs = self.tensor(image[None])
            heat = grad_cam(
                self.net,
                found,
                inputs,
                class_index,
                not self.multi_label,
                layout=layout,
                slices=self.num_slices,
                scores_of=lambda output: self._kind.evidence(self.experiment, output),
            )
            if heat is not None and self.experiment.data.layout != "maps":
                return np.broadcast_to(heat, (self.num_slices, *heat.shape[-2:]))  # one map may speak for all slices
            if heat is not None:
                return heat if heat.ndim == 2 else heat[0]
        return None

    def _spatial_layers(self) -> list[tuple[str, str]]:
        """Ids and layouts of the layers that keep maps of at least 4 x 4, else of at least 2 x 2 cells, the last first.

        Layers that learn nothing and keep the shape of their one input (activations, dropout) are left out.
        """
        planned = network.plan_of(self.experiment, len(self.classes))
        sides: dict[tuple[str, str], int] = {}
        for node in planned.nodes:
            passive = not node.parameters and [node.shape] == [planned.along(wire) for wire in node.inputs]
            if node.shape is not None and node.layout in ("maps", "series", "volume") and not passive:
                sides[node.id, node.layout] = min(node.shape[-2:])
        for least in (4, 2):
            found = [layer for layer, side in sides.items() if side >= least]
            if found:
                return found[::-1]
        return []

    def tensor(self, images: np.ndarray) -> torch.Tensor:
        """Prepared `images` (B, ...) as the network takes them: normalized, on its device."""
        import torch

        shape = (-1, *[1] * (-self.experiment.data.channel_axis - 1))
        normal = (images - self.mean.reshape(shape)) / self.std.reshape(shape)
        return torch.from_numpy(np.ascontiguousarray(normal, np.float32)).to(self.device)

    def _named(self, row: np.ndarray) -> dict[str, float]:
        return {name: float(value) for name, value in zip(self.classes, row, strict=True)}


def read(paths: Sequence[Path], box: Sandbox) -> Scan:
    """The scan in one file, in the files of one series, or in one folder or zip of them, decoded in the sandbox.

    Raises:
        scans.Unreadable: in words, for what is no scan.
    """
    with opened(paths, box) as (scan, _):
        return scan


@contextlib.contextmanager
def opened(paths: Sequence[Path], box: Sandbox) -> Iterator[tuple[Scan, list[Path]]]:
    """As `read`, with the files that the scan is in; those out of a zip are there until the end of the context."""
    if len(paths) != 1 or not (paths[0].is_dir() or _is_zip(paths[0])):
        yield box.read(list(paths), series=len(paths) > 1), list(paths)
        return
    with tempfile.TemporaryDirectory(prefix="scanloom-ask-") as place:
        try:
            files = [found.path for found in gather(paths[0], Path(place)).found]
        except SourceRefused as error:
            raise Unreadable(str(error)) from None
        if not files:
            raise Unreadable("There is nothing in it that could be a scan.")
        yield box.read(files, series=len(files) > 1), files


def _is_zip(path: Path) -> bool:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(4) in (b"PK\3\4", b"PK\5\6")
    return False


def _about_slices(slices: Sequence[int], of: int) -> list[str]:
    """In words, what of a scan's slices a network for series or volumes has seen."""
    if not slices:
        return []
    seen, blank = len(set(slices) - {0}), slices.count(0)
    have = "The scan is one picture" if of == 1 else f"The scan has {of} slices"
    filled = f", and {blank} black ones beside them" if blank else ""
    if of == 1:
        again = f"it was shown {len(slices)} times" if not blank else f"it was shown among {blank} black slices"
        return [
            f"{have}, but this network reads {len(slices)} slices in their order: {again}, so the answer says little."
        ]
    if seen == of:
        twice = f"; some were shown more than once to make {len(slices)}" if len(slices) - blank > of else ""
        return [f"{have}; the network saw all of them{twice}{filled}."]
    return [f"{have}; the network saw {seen} of them{filled}."]


def _about_patches(data: Data, of: tuple[int, ...], size: tuple[int, ...]) -> list[str]:
    """In words, on which grid a volume was looked at, and whether it filled a patch."""
    said = []
    if tuple(of) != tuple(size):
        brought = [f"pixels of {data.pixel_mm:g} mm"] if data.pixel_mm else []
        brought += [f"slices {data.slice_mm:g} mm apart"] if data.slice_mm else []
        said.append(f"The network saw the volume with {' and '.join(brought)}; the outline is on the scan's own grid.")
    if any(a < b for a, b in zip(size, data.shape[1:], strict=True)):
        small, patch = (" x ".join(map(str, sizes)) for sizes in (size, data.shape[1:]))
        said.append(f"The volume is smaller than a patch ({small} voxels, a patch has {patch}): black lay around it.")
    return said


def grad_cam(
    net: torch.nn.Module,
    layer: torch.nn.Module,
    inputs: torch.Tensor,
    class_index: int,
    exclusive: bool = True,
    layout: str = "maps",
    slices: int = 1,
    scores_of: Callable[[torch.Tensor], torch.Tensor | None] | None = None,
) -> np.ndarray | None:
    """Gradient-weighted class activation map (Selvaraju et al., ICCV 2017) of `layer` for one input.

    Channels of the layer's output are weighted by the mean gradient of the class score, summed, and what is negative is
    cut. Where classes exclude each other the score is the class's log-odds against all others, since softmax leaves
    single logits undetermined: the same answer may raise this class's logit or lower the others'. Every slice of a
    series has weights of its own; a volume has one weight per channel.

    Args:
        inputs: (1, C, H, W), (1, S, C, H, W) or (1, C, D, H, W). slices: S or D of the inputs. layout: of the layer's
            output: "maps", "series" or "volume", whatever that of the inputs.
        scores_of: takes the class scores (1, K) out of what the network puts out; None: they are all of it.
    Returns: (H, W) of maps, (slices, H, W) of a series or volume, float32 at the input's size, scaled to a largest
        value of 1; None where nothing is positive.
    """
    import torch

    held: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: Any, output: Any) -> Any:
        last = output[-1] if isinstance(output, tuple) else output
        held.append(last)
        own = last.clone()  # a later layer may work in place on its copy
        return (*output[:-1], own) if isinstance(output, tuple) else own

    hook = layer.register_forward_hook(keep)
    try:
        # cuDNN goes back through recurrent layers in training mode only; without it they can be asked as they answer.
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=inputs.ndim == 4):
            output = net(inputs.clone().requires_grad_(True))
            told = output if scores_of is None else scores_of(output)
            if told is None:
                return None
            scores = told[0]
            score = scores[class_index]
            if exclusive:
                score = score - torch.cat([scores[:class_index], scores[class_index + 1 :]]).logsumexp(0)
            (slopes,) = torch.autograd.grad(score, held[-1], allow_unused=True)
    finally:
        hook.remove()
    if slopes is None:  # the score rests on other taps of this layer
        return None
    weights = slopes.mean((2, 3, 4) if layout == "volume" else (-2, -1), keepdim=True)
    channels = -3 if layout != "volume" else -4
    evidence = torch.relu((weights * held[-1].detach()).sum(channels))[:, None]  # (1, 1, h, w) or (1, 1, s, h, w)
    size, mode = tuple(inputs.shape[-2:]), "bilinear"
    if layout != "maps":
        size, mode = (slices, *size), "trilinear"
    full = torch.nn.functional.interpolate(evidence, size, mode=mode, align_corners=False)[0, 0]
    most = float(full.max())
    return (full / most).float().cpu().numpy() if most > 0 else None


def blanked(image: np.ndarray, box: Box) -> np.ndarray:
    """`image` (..., H, W) with the region `box` of every plane set to the plane's median; at least one pixel of each is
    covered."""
    height, width = image.shape[-2:]
    left, top = int(np.floor(box[0] * width)), int(np.floor(box[1] * height))
    right, bottom = max(int(np.ceil(box[2] * width)), left + 1), max(int(np.ceil(box[3] * height)), top + 1)
    result = image.copy()
    result[..., top:bottom, left:right] = np.median(image, axis=(-2, -1))[..., None, None]
    return result


def differences(scan: Scan, fingerprint: dict[str, Any]) -> dict[str, str]:
    """Where `scan` is unlike the scans of the training, so that the answer may mean little: {what of it: in words}.

    What: "modality", "untold" (its modality), "body", "bits", "colour", "size".
    """
    said = {}
    known = [name for name in fingerprint.get("modalities", {}) if name != "unknown"]
    if known and scan.modality and scan.modality not in known:
        said["modality"] = f"This scan is of modality {scan.modality}; the training scans were {_listed(known)}."
    elif known and not scan.modality:
        said["untold"] = f"This file does not say its modality; the training scans were {_listed(known)}."
    bodies = [name for name in fingerprint.get("bodies", {}) if name != "unknown"]
    if bodies and scan.body and scan.body not in bodies:
        said["body"] = f"This scan shows {scan.body}; the training scans showed {_listed(bodies)}."
    bits = {int(b) for b in fingerprint.get("bits", {})}
    if bits and scan.bits not in bits:
        said["bits"] = (
            f"This scan stores {scan.bits} bits a pixel; the training scans stored {_listed(map(str, sorted(bits)))}."
        )
    channels = {int(c) for c in fingerprint.get("channels", {})}
    have = scan.pixels.shape[1]
    if channels and have not in channels:
        kind = {1: "grey", 3: "coloured"}
        said["colour"] = f"This scan is {kind.get(have, f'of {have} channels')}; the training scans were not."
    sizes = fingerprint.get("sizes") or {}
    low, high = sizes.get("min"), sizes.get("max")
    if low and high:
        height, width = scan.pixels.shape[2:]
        if max(height, width) > 2 * max(high) or min(height, width) * 2 < min(low):
            said["size"] = (
                f"This scan is {width} x {height} pixels; the training scans were from {low[1]} x {low[0]} "
                f"to {high[1]} x {high[0]}."
            )
    return said


def _stored(folder: Path, name: str) -> tuple[checkpoints.Weights, Path]:
    """The weights called `name` with what was said beside them, and the file they lie in."""
    if name != "last":
        file = folder / f"{name}.safetensors"
        return checkpoints.load_weights(file), file
    found = checkpoints.load_latest(folder, name)
    if found is None:
        raise checkpoints.CheckpointError("This run has saved no state yet: it can be asked after its first epoch.")
    place, facts = found.state["place"], found.state.get("facts")
    if facts is None:
        raise checkpoints.CheckpointError(
            "The last state of this run was saved by an earlier version, which kept less: ask its best epoch."
        )
    epoch = place["epoch"] if place["update"] else place["epoch"] - 1
    words = {key: json.dumps(value) for key, value in {**facts, "epoch": epoch, "step": place["step"]}.items()}
    weights, average = found.state["model"], found.state.get("average", {})
    if int(average.get("n_averaged", 0)):  # what would be judged and kept is the average of the weights
        begins = "module."
        weights = {key.removeprefix(begins): value for key, value in average.items() if key.startswith(begins)}
    return checkpoints.Weights(weights, {**words, "experiment": found.state["experiment"]}), found.file


def _facts(metadata: dict[str, str], experiment: Experiment) -> dict[str, Any]:
    """What training stored beside the weights; raises CheckpointError where it is not there or not of this run."""
    facts: dict[str, Any] = {}
    for name in ("classes", "multi_label", "unit", "mean", "std", "fingerprint"):
        try:
            facts[name] = json.loads(metadata[name])
        except (KeyError, ValueError):
            raise checkpoints.CheckpointError(
                f"The saved weights do not say the {name.replace('_', ' ')} of their training; "
                "they were not written by this version."
            ) from None
    facts["settled"] = json.loads(metadata.get("settled", "{}"))  # weights from before do not tell
    facts |= {name: int(json.loads(metadata.get(name, "0"))) for name in ("epoch", "step")}
    if metadata.get("experiment", experiment.digest) != experiment.digest:
        raise checkpoints.CheckpointError(
            "The saved weights belong to another experiment than the one in this run's folder."
        )
    if any(len(facts[name]) != experiment.data.channels for name in _NUMBERS):
        raise checkpoints.CheckpointError("The saved weights were trained on scans with another number of channels.")
    return facts


def _checked(box: Sequence[float]) -> Box:
    x0, y0, x1, y1 = (float(v) for v in box)
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise PredictError(f"The region {tuple(box)} must be left, top, right, bottom as fractions from 0 to 1.")
    return x0, y0, x1, y1


def _listed(names: Iterable[str]) -> str:
    *most, last = list(names)
    return f"{', '.join(most)} and {last}" if most else last


def _sha256(file: Path) -> str:
    import hashlib

    return hashlib.sha256(file.read_bytes()).hexdigest()
