"""The film of a run: a few pinned scans, and what the network said of each of them after every epoch.

Nothing is asked for it: validation asks about every scan anyway, and of its answers those to the pinned scans are kept.
So it draws no random number and takes no time of the device; its own time and its files are bounded below.

In the run's folder lie `film/scan-<row>.json` with the picture of a pinned scan and what is known of it,
`film/frame-<epoch>.json` with what was said of each, and the PNG files they name. Boxes are in shares of the picture,
classes are numbers. `film.json`, which a page writes, names the cases to pin; without it they are chosen here.
"""

from __future__ import annotations

import functools
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder import spreads
from builder.runs import read_json, write_atomic
from builder.spec import Data, Experiment
from builder.task import Shown, Sureness, Task

if TYPE_CHECKING:
    import torch

    from builder.batches import Scans
    from builder.targets import Target, Targets

__all__ = [
    "FOLDER",
    "MOST_SCANS",
    "Film",
    "chosen",
    "pin",
    "read_frame",
    "read_scan",
    "read_spreads",
    "stratified",
    "strip",
]

FOLDER = "film"
PINNED = "film.json"
USUAL_SCANS = 4
MOST_SCANS = 8
SIDE_PX = 256  # no picture of a film is larger
STRIP_PX = 128  # a scan in the picture for TensorBoard
EVERY = 20  # so many epochs are all in it; of later ones as many as keep it at about MOST_FRAMES
MOST_FRAMES = 120
_SAID, _KNOWN = (255, 176, 32), (53, 208, 160)
SHARE = 0.005  # of the run's time that a film may take; the board's own pictures may take as much again
_SPREADS_S = 0.01  # about what the spreads of an epoch cost


class Film:
    """Makes the film of one attempt of a run; `val` None: there is nothing to show."""

    def __init__(
        self,
        folder: Path,
        task: Task,
        experiment: Experiment,
        val: Scans | None,
        mean: np.ndarray,
        std: np.ndarray,
    ) -> None:
        """mean, std: of the normalization, shaped to be added to a prepared picture."""
        self.folder, self.task, self.experiment, self.val = folder, task, experiment, val
        self.mean, self.std = mean, std
        self.began, self.spent_s = time.monotonic(), 0.0
        self.introduced: set[int] = set()
        self.kept: dict[int, Shown] = {}
        self.sure: Sureness = {}
        self.refused = ""  # why the last epoch is not in it, in words
        self._usual: list[int] | None = None

    def wanted(self, epoch: int) -> bool:
        """Whether `epoch` shall be in the film: by its number, and if the time that films may take allows it."""
        epochs = self.experiment.training.epochs
        if self.val is None or not len(self.val.indices):
            return False
        every = 1 if epoch <= EVERY or epoch == epochs else -(-epochs // MOST_FRAMES)
        paid = self.spent_s <= SHARE * (time.monotonic() - self.began)
        return epoch % every == 0 and (paid or epoch in (1, epochs))

    def take(self, epoch: int, answers: Sequence[Any], settled: dict[str, float]) -> None:
        """Keeps what validation has just answered about the pinned scans; `answers` has one entry a validation row."""
        self.kept, self.refused = {}, ""
        if not self.wanted(epoch):
            return
        began = time.monotonic()
        rows = self._rows()
        try:
            for row in rows:
                if row not in self.introduced:
                    self._introduce(row)
        except OSError as error:
            self.refused = _refused(epoch, error)
            return
        self.kept = {row: self.task.shown(self.experiment, answers[row], settled, self._restored) for row in rows}
        if self._spreads(epoch):
            self.sure = self.task.sureness(self.experiment, answers, self.val.targets) if self.val else {}
        self.spent_s += time.monotonic() - began

    def _spreads(self, epoch: int) -> bool:
        """Whether the spreads of an epoch are told, too. Only the board shows them, which begins later than the film:
        they are never worth more than the share of it, but for those of the last epoch."""
        epochs = self.experiment.training.epochs
        paid = self.spent_s + _SPREADS_S <= SHARE * (time.monotonic() - self.began)
        return spreads.wanted(epoch, epochs) and (paid or epoch == epochs)

    def frame(self, epoch: int, step: int, model: torch.nn.Module) -> list[str]:
        """Writes what was kept as the picture of an epoch; its files, below the run's folder, [] where there is none.

        Where the disk refuses, the film goes without this epoch, and `refused` says so.
        """
        if not self.kept:
            return []
        began = time.monotonic()
        name = f"frame-{epoch:05d}"
        try:
            told = [{"scan": row, **self._told(shown, f"{name}-{row}")} for row, shown in self.kept.items()]
            _write(self.folder / FOLDER / f"{name}.json", {"epoch": epoch, "step": step, "scans": told})
            if self._spreads(epoch):
                spreads.write(self.folder / FOLDER / f"spreads-{epoch:05d}.json", model, self.sure)
        except OSError as error:
            self.refused = _refused(epoch, error)
            return []
        finally:
            self.kept, self.sure = {}, {}
        self.spent_s += time.monotonic() - began
        pictures = [entry[what] for entry in told for what in ("outline", "picture") if what in entry]
        return [f"{FOLDER}/{file}" for file in (f"{name}.json", *pictures)]

    # -- what is pinned -------------------------------------------------------------------------------------------

    def _rows(self) -> list[int]:
        """The positions in validation that are pinned: those a person chose, else some of every kind."""
        assert self.val is not None
        targets = self.val.targets
        asked = chosen(self.folder)
        if asked:
            places = {targets.dataset.cases[int(case)].id: int(case) for case in np.unique(targets.cases)}
            rows = [_telling(targets, places[id]) for id in asked[:MOST_SCANS] if id in places]
            if rows:
                return rows
        if self._usual is None:
            self._usual = [_telling(targets, case) for case in stratified(targets)]
        return self._usual

    def _introduce(self, row: int) -> None:
        """Writes the picture of a pinned scan, as the network sees it, and what is known of it."""
        assert self.val is not None
        (self.folder / FOLDER).mkdir(parents=True, exist_ok=True)
        images, target = self.task.pose(self.experiment, *self.val.batch(np.array([row])))
        picture = _flat(images[0].float().cpu().numpy(), self.experiment.data)
        name = f"scan-{row}"
        _png(self.folder / FOLDER / f"{name}.png", picture)
        case = self.val.targets.dataset.cases[int(self.val.targets.cases[row])]
        told = {"case": case.id, "slice": int(self.val.targets.slices[row]), "seen": f"{name}.png"}
        told |= {"height": int(picture.shape[0]), "width": int(picture.shape[1])}
        known, classes = _known(target)
        told |= {"known": {**self._told(known, f"{name}-known"), "classes": classes}}
        _write(self.folder / FOLDER / f"{name}.json", told)
        self.introduced.add(row)

    # -- what is said ---------------------------------------------------------------------------------------------

    def _restored(self, values: np.ndarray) -> np.ndarray:
        """A normalized picture (C, H, W) in [0, 1] again."""
        return np.clip(values * self.std + self.mean, 0, 1)

    def _told(self, shown: Shown, name: str) -> dict[str, Any]:
        """As JSON data; pictures become files called after `name`."""
        side = self.experiment.data.size_px
        told: dict[str, Any] = {}
        if shown.chances is not None:
            told["chances"] = [round(chance, 4) for chance in shown.chances]
        if shown.boxes is not None:
            corners = [[round(v / side, 4) for v in box[:4]] for box in shown.boxes]
            told["boxes"] = [[*at, int(b[4]), round(b[5], 3)] for at, b in zip(corners, shown.boxes, strict=True)]
        if shown.outline is not None:
            told["outline"] = f"{name}-outline.png"
            _png(
                self.folder / FOLDER / told["outline"],
                np.where(_middle(shown.outline), 255, 0).astype(np.uint8),
                thin=True,
            )
        if shown.picture is not None:
            told["picture"] = f"{name}.png"
            _png(self.folder / FOLDER / told["picture"], _flat(shown.picture, self.experiment.data))
        return told


def _refused(epoch: int, error: OSError) -> str:
    why = (error.strerror or "unknown").lower()
    return f"The film goes without epoch {epoch}: the data folder cannot be written ({why}). Free some space."


def chosen(folder: Path) -> list[str]:
    """The ids of the cases that a person pinned for the run in `folder`; [] where nobody did."""
    cases = (read_json(folder / PINNED) or {}).get("cases")
    return [str(id) for id in cases] if isinstance(cases, list) else []


def pin(folder: Path, cases: Sequence[str]) -> None:
    """Pins these cases, by id, from the next epoch on; none: some of every kind, as at first."""
    write_atomic(folder / PINNED, json.dumps({"cases": list(cases)[:MOST_SCANS]}))


def read_scan(folder: Path, row: int) -> dict[str, Any] | None:
    """What is known of a pinned scan of the run in `folder`; None where its file is gone or damaged."""
    return read_json(folder / FOLDER / f"scan-{int(row)}.json")


def read_spreads(folder: Path, epoch: int) -> dict[str, Any]:
    """What `spreads` keeps of an epoch until the board has it; the file is gone afterwards."""
    path = folder / FOLDER / f"spreads-{int(epoch):05d}.json"
    found = spreads.read(path)
    path.unlink(missing_ok=True)
    return found


def strip(folder: Path, epoch: int, classes: Sequence[str]) -> tuple[bytes, int, int] | None:
    """The picture of an epoch as one PNG for people without our pages: (bytes, height, width); None without one.

    What is known is green, what the network says orange; below each scan is what it is called, and how surely.
    """
    from PIL import Image, ImageDraw

    frame, side, tall = read_frame(folder, epoch), STRIP_PX, STRIP_PX + 32
    if frame is None or not frame.get("scans"):
        return None
    whole = Image.new("RGB", (side * len(frame["scans"]), tall))
    for place, said in enumerate(frame["scans"]):
        scan = read_scan(folder, said["scan"])
        if scan is None:
            continue
        known = scan["known"]
        with Image.open(folder / FOLDER / said.get("picture", scan["seen"])) as picture:
            drawn = picture.convert("RGB").resize((side, side))
        for told, colour in ((known, _KNOWN), (said, _SAID)):
            if "outline" in told:
                with Image.open(folder / FOLDER / told["outline"]) as outline:
                    drawn.paste(colour, mask=_edge(outline.resize((side, side))))
            for x0, y0, x1, y1, *_ in told.get("boxes", ()):
                ImageDraw.Draw(drawn).rectangle([side * x0, side * y0, side * x1, side * y1], outline=colour, width=2)
        whole.paste(drawn, (side * place, 0))
        words = []
        if known["classes"]:
            words.append("is " + ", ".join(classes[k] if k < len(classes) else str(k) for k in known["classes"]))
        if "chances" in said:
            top = int(np.argmax(said["chances"]))
            words.append(f"says {classes[top] if top < len(classes) else top} {said['chances'][top]:.0%}")
        at = (side * place + 4, side + 3)
        ImageDraw.Draw(whole).multiline_text(at, "\n".join(words), fill=(230, 230, 230), font=_font())
    made = io.BytesIO()
    whole.save(made, "PNG", compress_level=3)
    return made.getvalue(), tall, whole.width


@functools.cache
def _font() -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(11)


def _edge(outline: Any) -> Any:
    """The border of a black and white picture, as a mask."""
    from PIL import ImageChops, ImageFilter

    grey = outline.convert("L")
    return ImageChops.subtract(grey, grey.filter(ImageFilter.MinFilter(3)))


def read_frame(folder: Path, epoch: int) -> dict[str, Any] | None:
    """What was said after an epoch; None where its file is gone or damaged."""
    return read_json(folder / FOLDER / f"frame-{int(epoch):05d}.json")


def stratified(targets: Targets, num: int = USUAL_SCANS) -> list[int]:
    """Up to `num` positions of cases, from each kind in turn: by class, by the class of the first lesion, by whether
    there is an outline. The same for the same validation side."""
    cases, firsts = np.unique(targets.cases, return_index=True)
    groups: dict[int, list[int]] = {}
    for case, first in zip(cases.tolist(), firsts.tolist(), strict=True):
        groups.setdefault(_kind(targets, first), []).append(case)
    dice = np.random.default_rng(len(cases))
    piles = [dice.permutation(group).tolist() for _, group in sorted(groups.items(), reverse=True)]
    picked: list[int] = []
    while len(picked) < num and any(piles):
        picked += [pile.pop() for pile in piles if pile]
    return sorted(picked[:num])


def _kind(targets: Targets, row: int) -> int:
    if targets.labels is not None:
        return int(targets.labels[row][0]) if len(targets.labels[row]) else -1
    if targets.classes is not None:
        own = targets.classes[row]
        return int(own) if np.ndim(own) == 0 else int(own.argmax()) if own.any() else -1
    return 0


def _telling(targets: Targets, case: int) -> int:
    """Of the rows of a case the one that shows most: with the largest outline or most lesions, else the middle one."""
    rows = np.flatnonzero(targets.cases == case)
    shows = np.zeros(len(rows))
    if targets.masks is not None:
        shows = targets.masks[rows].reshape(len(rows), -1).sum(1, dtype=np.int64).astype(float)
    elif targets.outlines and targets.corners is not None:
        masks = targets.masks_at(rows, targets.corners[rows])
        shows = _middle(masks.swapaxes(0, 1), 4).reshape(len(rows), -1).sum(1, dtype=np.int64).astype(float)
    elif targets.boxes is not None:
        shows = np.array([len(targets.boxes[row]) for row in rows], float)
    return int(rows[shows.argmax()] if shows.any() else rows[len(rows) // 2])


def _known(target: Target) -> tuple[Shown, list[int]]:
    """What is known of the one scan of a batch, in the terms of an answer; and its class or classes."""
    classes: list[int] = []
    if target.classes is not None:
        own = target.classes[0]
        classes = [int(own)] if own.ndim == 0 else [int(k) for k in own.nonzero().flatten()]
    boxes = None
    if target.boxes is not None and target.labels is not None:
        pairs = zip(target.boxes[0].tolist(), target.labels[0].tolist(), strict=True)
        boxes = tuple((*(float(v) for v in box), int(label), 1.0) for box, label in pairs)
    outline = None
    if target.masks is not None and target.masked is not None and bool(target.masked[0]):
        outline = target.masks[0, 0].cpu().numpy() > 0
    picture = None if target.pictures is None else target.pictures[0].float().cpu().numpy()
    return Shown(None, boxes, outline, picture), [k for k in classes if k >= 0]  # type: ignore[arg-type]


def _flat(values: np.ndarray, data: Data) -> np.ndarray:
    """A prepared scan in [0, 1] as one 8-bit picture (H, W) or (H, W, 3): of slices the middle one."""
    if data.layout != "maps":
        values = _middle(np.moveaxis(values, data.channel_axis, 1), 4)
    if len(values) == 3 and data.colour == "neighbours":  # the slice itself
        values = values[1:2]
    eight = (np.clip(np.nan_to_num(values), 0, 1) * 255).round().astype(np.uint8)
    return eight[0] if len(eight) == 1 else eight.transpose(1, 2, 0)


def _middle(values: np.ndarray, stacked: int = 3) -> np.ndarray:
    """The middle slice of what has slices (as many dimensions as `stacked`); else as it is."""
    return values[len(values) // 2] if values.ndim == stacked else values


def _png(path: Path, values: np.ndarray, thin: bool = False) -> None:
    """Writes 8-bit values as a PNG of at most SIDE_PX; `thin`: black and white alone."""
    from PIL import Image

    picture = Image.fromarray(values)
    if max(picture.size) > SIDE_PX:
        share = SIDE_PX / max(picture.size)
        size = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
        picture = picture.resize(size, Image.Resampling.NEAREST if thin else Image.Resampling.BOX)
    passing = path.with_name(f".{path.name}.tmp")
    (picture.convert("1") if thin else picture).save(passing, "PNG", compress_level=3)
    os.replace(passing, path)


def _write(path: Path, told: Mapping[str, Any]) -> None:
    """Whole or not at all, but without waiting for the disk: what a power cut takes is a picture of a film."""
    passing = path.with_name(f".{path.name}.tmp")
    passing.write_text(json.dumps(told), encoding="utf-8")
    os.replace(passing, path)
