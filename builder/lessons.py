"""What an exported train.py teaches with, task by task: labels as read from files, the loss, the figures of an epoch.

Losses, figures, degradations and tiles come as their own source: nothing is described twice.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from builder.parts.images import DEGRADATIONS, MIXING, OWN_NOISE
from builder.parts.training import LOSSES
from builder.spec import Choice, Experiment

_HERE = Path(__file__).parent
_TABLE = (
    "FOLDER holds train/ and val/, each with a labels.csv beside its scans; or one labels.csv with a column split that "
    "says train or val, as `python -m builder export-labels DATASET --to csv` writes it. Its columns: "
)
_FIXED_BLOCKS = (
    "draws = np.random.default_rng(2026).random((len(images), 2))[start:end]",
    "batch, _ = blocks(images, targets, range(start, end), draws)",
)
_TORCH = ["import torch", "from torch import Tensor, nn", "from torch.nn import functional"]


@dataclass(frozen=True)
class Lesson:
    """The part of train.py that is a task's own.

    Attributes:
        folder: what lies in FOLDER, in words. text: functions `load`, `varied`, `loss_of` and `judged`.
        reading: what it takes from predict.py. imports: lines. files: {name: text} that lie beside it.
        kept: files beside model.py and predict.py that a trained copy needs. packages: beside those of the export.
        plain: lines that make `batch`, the training scans from `start` to `end` as they are, not varied.
        settled: which of the figures predict.py goes by (`task.Task.settled`).
    """

    folder: str
    text: str
    reading: str
    imports: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    plain: tuple[str, ...] = ("batch = images[start:end]",)
    settled: tuple[str, ...] = ()


def lesson(says: str, experiment: Experiment, multi_label: bool) -> Lesson:
    """The lesson of a task whose answers are told as `says` (see `task.Task`)."""
    return _LESSONS[says](experiment, multi_label)


def _of_classes(experiment: Experiment, multi_label: bool) -> Lesson:
    folder = (
        "FOLDER holds train/ and val/, each with one folder per class, or with a labels.csv of the columns file and "
        'label (several labels are separated by "|").'
    )
    augment = experiment.training.augment
    varied = [f"return {'AUGMENT(images[rows], random).images' if augment else 'images[rows]'}, targets[rows]"]
    loss = _class_loss(experiment, multi_label)
    if any(choice.name in MIXING for choice in augment):
        varied = [
            "images, targets = AUGMENT(images[rows], random).images, targets[rows]",
            "mixed = AUGMENT.mixed(images, random)",
            "if mixed is None:",
            "    return images, targets",
            "return mixed.images, (targets, targets[mixed.partner], mixed.share)  # a part of each answer",
        ]
        loss[-1] = loss[-1].replace("return ", "plain = ", 1)
        loss += [
            "",
            "def shared(scores, targets):",
            "    if not isinstance(targets, tuple):",
            "        return plain(scores, targets)",
            "    own, other, share = targets",
            "    return share * plain(scores, own) + (1 - share) * plain(scores, other)",
            "",
            "return shared",
        ]
    text = _filled("classes", varied=_indented(varied), loss=_indented(loss))
    if "Focal(" not in text and "Labels(" not in text:
        return Lesson(folder, text, "SETTINGS, prepare, read")
    from builder.losses import Focal, Labels

    kind = Labels if multi_label else Focal
    source = _module("The loss of the classes.", _TORCH, {}, [], [*kind.PARTS, kind])
    return Lesson(
        folder, text, "SETTINGS, prepare, read", (f"from losses import {kind.__name__}",), {"losses.py": source}
    )


def _of_boxes(experiment: Experiment, multi_label: bool) -> Lesson:
    from builder.measures import bootstrap, boxes
    from builder.targets import over_slices

    folder = _TABLE + (
        "file; x0, y0, x1 and y1 in pixels of the scan, a line for each box, empty on the one line of a scan that has "
        "none; label, its class; slice, counted from 0, where there are several."
    )
    moved = ["return images[rows], known"]
    if experiment.training.augment:
        moved = [
            "moved = AUGMENT(images[rows], random, boxes=[row[0] for row in known])",
            "left = zip(moved.boxes, known, moved.kept)",
            "return moved.images, [(boxes, labels[kept], where) for boxes, (_, labels, where), kept in left]",
        ]
    figures = _module(
        "How well lesions are found as boxes: COCO's average precision, and FROC.",
        [
            "from collections.abc import Mapping, Sequence",
            "from dataclasses import dataclass, fields",
            "from typing import Any",
        ],
        {
            n: getattr(boxes, n)
            for n in ("IOUS", "COCO_IOUS", "RATES", "FROC_IOU", "MOST", "_LIMITS", "_PRECISIONS", "_GRID")
        },
        ["_RECALLS = np.linspace(0, 1, 101)"],
        [
            *(bootstrap.ratio, bootstrap.mean_defined),
            *(boxes.Detections, boxes._Ranked, boxes._Response, boxes.overlaps, boxes._sizes, boxes._ranked),
            *(boxes.average_precision, boxes.precisions, boxes._named, boxes.scores, boxes._response),
            *(boxes._sensitivities, boxes._cpm, boxes.operating_threshold),
        ],
    )
    return Lesson(
        folder,
        _filled("boxes", varied=_indented(moved), over_slices=inspect.getsource(over_slices).rstrip("\n")),
        "SETTINGS, pictures, placed, read",
        ("from figures import Detections, operating_threshold", "from figures import scores as scores_of")
        + ("from torchvision.ops import batched_nms",),
        {"figures.py": figures},
        packages=("torchvision",),
        settled=("threshold",),
    )


def _of_outlines(experiment: Experiment, multi_label: bool) -> Lesson:
    from builder import losses, task
    from builder.measures import bootstrap, outlines

    own = task.find(experiment.task).own
    folder = _TABLE + (
        "file; mask, the file of its outline: as large as the scan, anything but 0 is inside (empty: not known); "
        "label, its type (empty: not known)."
    )
    data = experiment.data
    scans, pictures = ("volumes", "patches") if data.blocks else ("pictures", "images[rows]")
    axis, first = ("", "") if data.blocks else ("[:, None]", "[:, 0]")  # all slices of a volume's outline go one way
    moved = [f"return {pictures}, known"]
    if experiment.training.augment:
        moved = [
            "empty = np.zeros(GRID, np.uint8)",
            "masks = torch.from_numpy(np.stack([empty if mask is None else mask for _, mask, *_ in known]))" + axis,
            f"moved = AUGMENT({pictures}, random, masks=masks)",
            f"masks = [mask if row[1] is not None else None for row, mask in zip(known, moved.masks{first}.numpy())]",
            "return moved.images, [(row[0], mask, *row[2:]) for row, mask in zip(known, masks)]",
        ]
    constants = ""
    if data.blocks:
        constants = (
            f"\nNUM_PATCHES = {data.num_patches}  # of each volume in an epoch\nOUTLINED_SHARE = {data.outlined_share}"
        )
    grid = data.shape[1:]
    choice = experiment.training.loss
    name = "dice_ce" if choice.name == "usual" else choice.name
    settings = {**LOSSES[name].defaults, **choice.params}
    kind = LOSSES[name].load()
    parents = [
        cls
        for cls in reversed(inspect.getmro(kind))  # type: ignore[arg-type]
        if cls.__module__ == losses.__name__
    ]
    figures = _module(
        "What is said of a scan with a tumour, and how well.",
        ["from collections.abc import Sequence", "from typing import Any, NamedTuple"],
        {name: value for name, value in own.items() if not callable(value)},
        [],
        [bootstrap.ratio, outlines.overlap, *(part for part in own.values() if callable(part))],
    )
    loss = _module(
        "The loss of the outlines.",
        _TORCH,
        {"_SMOOTH": losses._SMOOTH},
        [],
        [*getattr(kind, "PARTS", ()), *parents],
    )
    return Lesson(
        folder,
        _filled(
            "type_and_outline",
            grid=repr(tuple(grid)) + constants,
            axes="slices, size, size" if data.blocks else "size, size",
            reading_scans=_template(f"outlines_{scans}", varied=_indented(moved).rstrip("\n")),
            outline=f"{kind.__name__}({', '.join(f'{key}={value!r}' for key, value in settings.items())})",
            type_weight=repr(float(settings["type_weight"])),
            loss=_indented(_class_loss(experiment.replace("training.loss", Choice(name="usual")), False)),
        ),
        "SETTINGS, pictures, read" if data.blocks else "SETTINGS, pictures, placed, read",
        ("import cutting" if data.blocks else "from PIL import Image",)
        + ("from figures import THRESHOLD, Answer, of_case, overlap, type_scores",)
        + (f"from losses import {kind.__name__}",),
        {"figures.py": figures, "losses.py": loss},
        ("cutting.py",) if data.blocks else (),
        packages=("scikit-learn", "segmentation-models-pytorch"),
        plain=_FIXED_BLOCKS if data.blocks else Lesson.plain,
    )


def _of_pictures(experiment: Experiment, multi_label: bool) -> Lesson:
    from builder import degrade, grain

    data, choice = experiment.data, experiment.training.loss
    name = "l1" if choice.name == "usual" else choice.name
    settings = {**LOSSES[name].defaults, **choice.params}
    words = "".join(f", {key}={value!r}" for key, value in settings.items())
    function = LOSSES[name].target.partition(":")[2]
    degrades = data.degrade.name != "none"
    varies = bool(experiment.training.augment)
    imports = [f"from restoration import {', '.join(sorted({function, 'ssim'}))}"]
    files = {name: (_HERE / name).read_text(encoding="utf-8") for name in ("restoration.py",)}
    moved: list[str] = []
    posed: list[str] = []
    if degrades:
        part = DEGRADATIONS[data.degrade.name]
        poor = part.target.partition(":")[2]
        given = "".join(f", {key}={value!r}" for key, value in {**part.defaults, **data.degrade.params}.items())
        moved = ["good = AUGMENT(good, random).images"] if varies else []
        own = data.degrade.name in OWN_NOISE  # patches bring the noise of the slice that they are of with them
        told = ", grains=torch.stack([grain_of(images[int(row)]) for row in rows])" if own else ""
        moved.append(f"poor = {poor}(good, Chance(good, random){given}{told}).clamp_(0, 1)")
        posed = [f"poor = {poor}(good, Chance(good, list(rows)){given}{told}).clamp_(0, 1)  # the same in each epoch"]
        imports.append(f"from degrade import Chance, {'grain_of, ' if own else ''}{poor}")
        files["degrade.py"] = _module(
            "A good scan made poor.",
            ["import functools", "import math", "from collections.abc import Sequence", "import torch"]
            + ["import torch.nn.functional as F", "from torch import Tensor"],
            {"CT_LOW_HU": degrade.CT_LOW_HU, "CT_RANGE_HU": degrade.CT_RANGE_HU}
            | {name: getattr(grain, name) for name in dir(grain) if name.isupper()},
            [],
            [degrade.Chance, part.load(), degrade._louder, degrade._smoothed, degrade._grained]
            + ([grain.own_grain, degrade._own] if own else []),
        )
        if own:  # each slice is measured once
            files["degrade.py"] += "\n\ngrain_of = functools.cache(_own)\n"
    elif varies:
        moved = ["state = random.get_state()", "poor = AUGMENT(poor, random).images", "random.set_state(state)"]
        moved.append("good = AUGMENT(good, random).images  # moved as the poor ones are")
    folder = _TABLE + (
        "file, a good scan: it is made poor while it is learned from."
        if degrades
        else "file, a poor scan; target, the file of the good one."
    )
    text = _filled(
        "picture",
        good="shown" if degrades else 'pictures(read(base / row["target"]))',
        scale=data.scale,
        degrades=degrades,
        varied=_indented([*moved, "return poor, good"]),
        posed=_indented(posed) if posed else "",
        loss=function,
        settings=words,
        unit=degrade.CT_RANGE_HU if data.window == "ct full" else 1.0,
    )
    plain = ("batch, _ = posed(images, targets, range(start, end))",)
    return Lesson(folder, text, "SETTINGS, pictures, read", tuple(imports), files, ("tiling.py",), plain=plain)


_LESSONS: dict[str, Callable[[Experiment, bool], Lesson]] = {
    "classes": _of_classes,
    "boxes": _of_boxes,
    "type_and_outline": _of_outlines,
    "picture": _of_pictures,
}


def _class_loss(experiment: Experiment, multi_label: bool) -> list[str]:
    """The lines of the loss of classes, over `train_targets`."""
    training = experiment.training
    smoothing, focal = training.label_smoothing, training.loss.name == "focal"
    gamma = {**LOSSES["focal"].defaults, **training.loss.params}["gamma"] if focal else 0.0
    lines = []
    if training.balance == "weights" and multi_label:
        lines = [
            "positives = train_targets.sum(0)",
            "weight = ((len(train_targets) - positives) / positives.clamp(min=1)).clamp(0.01, 100)",
        ]
    elif training.balance == "weights":
        lines = [
            "counts = torch.bincount(train_targets, minlength=len(CLASSES)).clamp(min=1)",
            "weight = len(train_targets) / (len(CLASSES) * counts.float())",
        ]
    weight = "weight" if lines else "None"
    if gamma:
        return [*lines, f"return {'Labels' if multi_label else 'Focal'}({gamma}, {weight}, {smoothing})"]
    if not multi_label:
        return [*lines, f"return nn.CrossEntropyLoss(weight={weight}, label_smoothing={smoothing})"]
    return [
        *lines,
        f"binary = nn.BCEWithLogitsLoss(pos_weight={weight})",
        f"return lambda scores, targets: binary(scores, targets * {1 - smoothing} + {smoothing / 2})",
    ]


def _filled(name: str, **parts: Any) -> str:
    return _template(f"lesson_{name}", **parts)


def _template(name: str, **parts: Any) -> str:
    text = (_HERE / "templates" / f"{name}.py.txt").read_text(encoding="utf-8")
    return Template(text).substitute(parts)


def _module(words: str, imports: list[str], constants: dict[str, Any], lines: list[str], parts: list[Any]) -> str:
    """The text of a module that holds the source of functions and classes of ours."""
    return "\n".join(
        [
            f'"""{words} This is the source that ScanLoom itself uses."""',
            "",
            "from __future__ import annotations",
            "",
            *imports,
            "",
            "import numpy as np",
            "",
            *(f"{name} = {value!r}" for name, value in constants.items()),
            *lines,
            "",
            "",
            "\n\n\n".join(inspect.getsource(part).rstrip() for part in parts),
            "",
        ]
    )


def _indented(lines: list[str], by: int = 4) -> str:
    return textwrap.indent("\n".join(lines), " " * by) + "\n" * (by == 4)
