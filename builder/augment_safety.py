"""Whether labels stay true under the chosen augmentation: verdicts from the facts of the data, and from its lesions.

`verdicts` needs the fingerprint alone; `lost` moves the very boxes and outlines of the data set as training would, with
several seeds, and counts those that leave the picture or are covered. What is not known is said to be unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.data import Dataset, Fingerprint, pixel_aspect, place, size_in
from builder.parts.images import AUGMENTATIONS
from builder.spec import Choice, Data, Experiment, Problem
from builder.task import find
from builder.views import VIEWS

if TYPE_CHECKING:
    import torch

    from builder.augment import Augment

FILM, CT, MR, ULTRASOUND, COLOUR, UNKNOWN = "film", "CT", "MR", "ultrasound", "colour", "unknown"
_KINDS = {
    **dict.fromkeys(("CR", "DX", "RG", "MG", "PX", "RF", "XA"), FILM),
    **dict.fromkeys(("CT", "PT", "PET"), CT),
    **{"MR": MR, "US": ULTRASOUND, "IVUS": ULTRASOUND},
    **dict.fromkeys(("SM", "GM", "XC", "ES", "OP", "DMS"), COLOUR),
}
_WORDS = {FILM: "X-ray films", CT: "CT", MR: "MR", ULTRASOUND: "ultrasound", COLOUR: "colour pictures"}
_CHEST = ("chest", "pneumo", "cardiomegaly", "thora", "lung", "pleura", "effusion", "atelectasis")
_SPLIT = re.compile(r"[^a-z0-9]+")
_HINTS = {
    ULTRASOUND: ("ultrasound", "sonograph", "echo", "busi", "us"),
    CT: ("ct", "computed tomography", "ldct"),
    MR: ("mri", "mr", "magnetic", "flair", "brats"),
    COLOUR: ("microscop", "histolog", "pathology", "blood", "derma", "skin", "fundus", "retina", "endoscop"),
    FILM: ("xray", "x-ray", "radiograph", "mammogra", *_CHEST),
}
"""Words in names from which a kind is guessed where no file says it."""
_SIDES = ("left", "right", "sinister", "dexter")
_MACHINES = {"bias_field": MR, "ghosting": MR, "ct_noise": CT, "speckle": ULTRASOUND}
_STEEP = 45.0  # degrees beyond which no patient is positioned
_MOST_PICTURES = 400
_MOST_LESIONS = 400
_POINTS = 49  # that a lesion is followed by: 7 x 7 of a box, of which one row is nearest to a fifth
SEEDS = 8
"""How many epochs of dice are thrown for each lesion."""
WORRYING = 0.01
"""Share of the lesions that may be lost in an epoch before it is a warning."""
_LEFT = 0.2  # of a lesion that must be left to be seen, as `augment.KEPT_AREA`
_SMALLER = (0.75, 0.5, 0.35, 0.2)
_AMOUNTS = {"rotate": "degrees", "shear": "degrees", "shift": "fraction", "elastic": "amount", "cutout": "size"}


def kind_of(fingerprint: Fingerprint | None, name: str = "") -> str:
    """What made the scans: one of the kinds above, as the files say or, where they say nothing, as the name of the data
    set or its classes do; UNKNOWN also where they are mixed."""
    if fingerprint is None:
        return UNKNOWN
    found = {_KINDS.get(modality, UNKNOWN) for modality in fingerprint.modalities}
    if found - {UNKNOWN}:
        return found.pop() if len(found) == 1 else UNKNOWN
    told = _told(fingerprint, name)
    words = set(_SPLIT.split(told))
    for kind, hints in _HINTS.items():
        if any(hint in words or (len(hint) > 3 and hint in told) for hint in hints):
            return kind
    return UNKNOWN


def _told(fingerprint: Fingerprint, name: str) -> str:
    return " ".join([name, *fingerprint.classes, *fingerprint.mask_names]).lower()


def _is_chest(name: str, fingerprint: Fingerprint) -> bool:
    return any(word in _told(fingerprint, name) for word in _CHEST)


# -- from the facts ---------------------------------------------------------------------------------------------------


def verdicts(experiment: Experiment, fingerprint: Fingerprint | None, name: str = "") -> list[Problem]:
    """What the facts say of each chosen augmentation, of severity "warning", or "note" where something is unknown.

    Paths are those of the operations, repairs are those of one click. Nothing without a data set.

    Args:
        name: of the data set, where that is known: it may say what the scans show.
    """
    if fingerprint is None:
        return []
    found = []
    for choice in experiment.training.augment:
        if choice.name not in AUGMENTATIONS:
            continue
        for severity, words, repair, fix in _of_operation(experiment, fingerprint, name, choice):
            found.append(Problem(f"training.augment.{choice.name}", words, severity, repair, fix))
    return [*found, *_of_views(experiment, fingerprint)]


_Said = tuple[str, str, str, Experiment | None]


def _of_operation(experiment: Experiment, facts: Fingerprint, called: str, choice: Choice) -> Iterator[_Said]:
    kind, name, data = kind_of(facts, called), choice.name, experiment.data
    settings = {**AUGMENTATIONS[name].defaults, **choice.params}
    off = "Switch it off", without(experiment, name)
    guessed = " (as its name says)" if kind != UNKNOWN and kind_of(facts, "") != kind else ""
    scans = _WORDS.get(kind, "") + guessed

    def warn(words: str) -> _Said:
        return ("warning", words, *off)

    sided = [c for c in (*facts.classes, *facts.mask_names) if any(side in c.lower() for side in _SIDES)]
    if name == "flip_horizontal":
        if sided:
            yield warn(f"A flip swaps left and right, but {_quoted(sided)} names a side: the label becomes wrong.")
        elif _is_chest(called, facts) and kind in (FILM, CT, UNKNOWN):
            seems = "" if set(facts.modalities) <= _KINDS.keys() else ", which these seem to be by their names"
            yield warn(f"A flip swaps left and right on chest films{seems}: the heart lies on the wrong side.")
        elif kind == FILM:
            yield warn("A flip swaps left and right: on X-ray films sides matter, and a mirrored one is an error.")
        elif kind in (CT, MR):
            yield (
                "note",
                "Which part of the body these show is unknown. Where organs have sides, a flip shows none.",
                "",
                None,
            )
        elif kind == UNKNOWN:
            yield (
                "note",
                "What made these scans is unknown. Where left and right matter, switch the flip off.",
                "",
                None,
            )
    if name == "flip_vertical" and kind not in (UNKNOWN, COLOUR):
        deep = "the depth of the picture, and shadows fall upwards" if kind == ULTRASOUND else "what no scan shows"
        yield warn(f"Upside down is {deep}: there is an up and a down on {scans}.")
    if name == "rotate" and float(settings["degrees"]) > _STEEP and kind not in (UNKNOWN, COLOUR):
        near = experiment.replace("training.augment.rotate.params.degrees", 15.0)
        words = f"Turns of {settings['degrees']:g} degrees are more than positioning brings on {scans}."
        yield "warning", words, "Use 15 degrees", near
    if name == "colour" and data.colour == "rgb" and set(facts.channels) == {"1"}:
        yield warn("Hue means nothing on these scans: all of them are grey.")
    if name in ("brightness", "contrast", "gamma") and (data.window.startswith("ct ") or kind == CT):
        title = AUGMENTATIONS[name].title
        if data.window.startswith("ct "):
            yield warn(
                f"{title} means nothing here: in the window {data.window} a grey value is a Hounsfield unit, the same "
                "on every scanner."
            )
        elif data.window != "percentile":
            yield "note", f"{title} changes Hounsfield units, which are the same on every scanner.", "", None
    own = _MACHINES.get(name)
    if own is not None and kind not in (own, UNKNOWN):
        yield warn(f"Nothing like it occurs on {scans}: the network would learn what never comes.")
    elif own is not None and kind == UNKNOWN:
        yield "note", f"What made these scans is unknown; this is for {_WORDS[own]} only.", "", None
    if name in ("blur", "low_resolution"):
        yield from _of_detail(experiment, facts, name, settings)
    if name == "cutmix" and sum(facts.num_boxed.values()) + sum(facts.num_masked.values()) == 0:
        yield (
            "note",
            "Answers are shared by area; where a finding lies is unknown, so a small one may be cut away.",
            "",
            None,
        )


def _of_detail(experiment: Experiment, facts: Fingerprint, name: str, settings: Mapping[str, Any]) -> Iterator[_Said]:
    sizes, pictures = facts.box_sizes_px.get("median"), facts.sizes.get("median")
    if not sizes or not pictures or experiment.data.fit == "patches":
        return
    side = min(size_in(sizes, pictures, experiment.data))
    washed = 2.355 * float(settings["sigma_px"]) if name == "blur" else float(settings["factor"])
    if side < 2 * washed:
        words = (
            f"Half of the lesions are smaller than {side:.1f} px as the network sees them; this washes out what is "
            f"smaller than about {washed:.1f} px."
        )
        yield "warning", words, "Switch it off", without(experiment, name)


def _of_views(experiment: Experiment, facts: Fingerprint) -> Iterator[Problem]:
    """Test-time views that training never shows."""
    name, chosen = experiment.training.test_time, {c.name for c in experiment.training.augment}
    shown = VIEWS.get(name, ())
    missing = [
        flip
        for flip, asked in (
            ("flip_horizontal", any(v.across for v in shown)),
            ("flip_vertical", any(v.down for v in shown)),
        )
        if asked and flip not in chosen
    ]
    if missing:
        titles = " and ".join(AUGMENTATIONS[flip].title.lower() for flip in missing)
        words = (
            f"In use the network would be asked about views it never saw in training: {titles} is not among the "
            "augmentations."
        )
        yield Problem(
            "training.test_time", words, "warning", "Ask once", experiment.replace("training.test_time", "off")
        )


def without(experiment: Experiment, name: str) -> Experiment:
    """The document with this augmentation switched off."""
    return experiment.replace("training.augment", [c for c in experiment.training.augment if c.name != name])


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names[:3])


# -- from the lesions -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lesions:
    """Boxes and outlines of training scans, in pixels of the prepared picture.

    Attributes:
        kind: "boxes" or "outlines". pictures: how many were looked at. picture: (n,) int64, which one each lies on.
        points: (n, k, 2) float64, x before y, spread evenly over each. side: of the picture, in px.
    """

    kind: str
    pictures: int
    picture: np.ndarray
    points: np.ndarray
    side: int

    def __len__(self) -> int:
        return len(self.picture)


def lesions(dataset: Dataset, data: Data, task: str) -> Lesions | None:
    """Up to 400 lesions on up to 400 training pictures, evenly spread over the data set; None where none are known, or
    where patches are cut (then nobody knows beforehand what lies in them)."""
    if data.fit == "patches":
        return None
    kind = find(task).label_kind
    outlined = kind == "outline" or (kind != "boxes" and not len(dataset.indices("train", by="boxes")))
    cases = dataset.indices("train", by="mask" if outlined else "boxes")
    if len(cases) > _MOST_PICTURES:
        cases = cases[np.linspace(0, len(cases) - 1, _MOST_PICTURES).round().astype(int)]
    points, pictures = [], []
    for picture, index in enumerate(cases.tolist()):
        case = dataset.cases[index]
        laid = place(case.shape[2], case.shape[3], data, pixel_aspect(case))
        for spread in _outline(dataset, index) if outlined else _boxes(dataset, index):
            moved = laid.boxes_in(np.concatenate([spread, spread], 1))[:, :2]
            inside = ((moved >= 0) & (moved <= data.size_px)).all(1)
            if inside.mean() >= _LEFT:  # the preparation itself may cut one away
                points.append(moved)
                pictures.append(picture)
    if not points:
        return None
    kept = np.arange(len(points))
    if len(kept) > _MOST_LESIONS:
        kept = np.linspace(0, len(points) - 1, _MOST_LESIONS).round().astype(int)
    kind = "outlines" if outlined else "boxes"
    return Lesions(kind, len(cases), np.array(pictures)[kept], np.stack(points)[kept], data.size_px)


def _boxes(dataset: Dataset, index: int) -> Iterator[np.ndarray]:
    side = int(_POINTS**0.5)
    steps = (np.arange(side) + 0.5) / side
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    for box in dataset.boxes(index) or ():
        yield np.array([box.x0, box.y0]) + grid * np.array([box.x1 - box.x0, box.y1 - box.y0])


def _outline(dataset: Dataset, index: int) -> Iterator[np.ndarray]:
    mask = dataset.mask(index)
    if mask is None or not (mask > 0).any():
        return
    largest = mask[(mask > 0).sum((1, 2)).argmax()]
    rows, columns = np.nonzero(largest)
    taken = np.linspace(0, len(rows) - 1, _POINTS).round().astype(int)
    yield np.stack([columns[taken] + 0.5, rows[taken] + 0.5], 1)


def lost(experiment: Experiment, there: Lesions | None, seeds: int = SEEDS) -> list[Problem]:
    """Of each chosen augmentation that moves or covers, how many lesions an epoch loses: a "warning" with a smaller
    amount as its repair, or of severity "fine"; and of all of them together, at "training.augment".

    A lesion is lost when less than a fifth of it is left in the picture, or uncovered.
    """
    chosen = [c for c in experiment.training.augment if c.name in AUGMENTATIONS and _moves(c.name)]
    if there is None or not chosen:
        return []
    found, worried = [], False
    for choice in chosen:
        count = _count([choice], there, seeds)
        path = f"training.augment.{choice.name}"
        if count <= WORRYING * len(there):
            words = f"{_amount(count, len(there), there.kind)} in an epoch, with {seeds} seeds."
            found.append(Problem(path, words, "fine"))
            continue
        worried = True
        repair, fix = _smaller(experiment, choice, there, seeds)
        found.append(Problem(path, f"{_sentence(choice, count, there, experiment.task)}", "warning", repair, fix))
    if len(chosen) > 1:
        count = _count(chosen, there, seeds)
        words = f"All of it together: {_amount(count, len(there), there.kind)} in an epoch."
        severity = "fine" if count <= WORRYING * len(there) else "note" if worried else "warning"
        found.append(Problem("training.augment", words, severity))
    return found


def _moves(name: str) -> bool:
    part = AUGMENTATIONS[name]
    return (part.group == "Geometry" and not name.startswith("flip")) or name == "cutout"


def _sentence(choice: Choice, count: float, there: Lesions, task: str) -> str:
    what = {"cutout": "may cover the lesion", "zoom": "and crop may remove the lesion"}.get(
        choice.name, "may move the lesion out of the picture"
    )
    title = {"zoom": "Zoom", "cutout": "An erased patch"}.get(choice.name, AUGMENTATIONS[choice.name].title)
    label = "" if find(task).label_kind == "boxes" or there.kind == "outlines" else " while the scan keeps its label"
    return f"{title} {what}: {_amount(count, len(there), there.kind)} in an epoch{label}."


def _amount(count: float, of: int, kind: str) -> str:
    whole = round(count)
    return f"{whole if whole or count < 0.05 else 'fewer than 1'} of {of:,} {kind} lost"


def _count(choices: Sequence[Choice], there: Lesions, seeds: int) -> float:
    """How many lesions are lost in an epoch, the mean over the seeds."""
    import torch

    from builder.augment import Augment

    complete = [Choice(name=c.name, params={**AUGMENTATIONS[c.name].defaults, **c.params}) for c in choices]
    augment, total = Augment(complete), 0
    for seed in range(seeds):
        total += int((_left(augment, there, torch.Generator().manual_seed(seed)) < _LEFT).sum())
    return total / seeds


def _left(augment: Augment, there: Lesions, chance: torch.Generator) -> torch.Tensor:
    """(n,) float: the share of each lesion that is in the picture and uncovered, in one epoch."""
    import torch

    from builder.shading import erased

    which, points = torch.from_numpy(there.picture), torch.from_numpy(there.points)
    moves = augment.moves(there.pictures, there.side, there.side, chance)
    if moves is not None:
        points = moves.points(points, which)
    seen = ((points >= 0) & (points <= there.side)).all(-1)
    if "cutout" in augment.settings:
        setting = augment.settings["cutout"]
        holes = erased(there.pictures, there.side, there.side, setting, chance).double()[which][:, None]
        fallen = torch.rand(there.pictures, generator=chance)[which] < setting["probability"]
        x, y = points[..., 0, None], points[..., 1, None]
        covered = (x > holes[..., 0]) & (x < holes[..., 2]) & (y > holes[..., 1]) & (y < holes[..., 3])
        seen &= ~(covered.any(-1) & fallen[:, None])
    return seen.double().mean(1)


def _smaller(experiment: Experiment, choice: Choice, there: Lesions, seeds: int) -> tuple[str, Experiment]:
    """(words, document): the largest amount out of a few under which hardly a lesion is lost, else without it."""
    settings = {**AUGMENTATIONS[choice.name].defaults, **choice.params}
    for share in _SMALLER:
        if choice.name == "zoom":
            changed = {"high": round(1 + (float(settings["high"]) - 1) * share, 2)}
        else:
            name = _AMOUNTS[choice.name]
            changed = {name: round(float(settings[name]) * share, 2)}
        try:
            for name, value in changed.items():
                AUGMENTATIONS[choice.name].param(name).parse(value)
        except ValueError:
            break
        less = choice.model_copy(update={"params": {**choice.params, **changed}})
        if _count([less], there, seeds) <= WORRYING * len(there):
            others = [less if c is choice else c for c in experiment.training.augment]
            words = ", ".join(f"{value:g}" for value in changed.values())
            return f"Use {words} at most", experiment.replace("training.augment", others)
    return "Switch it off", without(experiment, choice.name)
