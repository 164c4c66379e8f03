"""What stands in the way of tumour diagnosis, and how a network that ends in something else is mended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from builder.network import Plan, plan_of
from builder.parts.layers import LAYERS
from builder.spec import INPUT, Experiment, Node, Problem

FEW_CASES = 20
"""Outlined training cases under which results are mostly luck."""
_DECODERS = ("unet_decoder", "fpn_decoder")
_HEADS = ("mask_scores", "class_scores", "box_head", "image_head", "type_and_outline", "softmax", "sigmoid")

_Step = tuple[str, dict[str, Any], tuple[str, ...]]


def endings(experiment: Experiment, num_classes: int) -> list[tuple[str, Experiment]]:
    """Repairs (words, document) after which the network may end in type and outline, the best first."""
    return list(_endings(experiment, num_classes))


def _endings(experiment: Experiment, num_classes: int) -> Iterator[tuple[str, Experiment]]:
    planned = plan_of(experiment, num_classes)
    if experiment.data.layout == "volume":
        yield from _of_volumes(experiment, planned)
        return
    maps = _maps(experiment, planned)
    if maps and LAYERS[experiment.network[maps[-1][1]].name].group == "Decoders":
        fine, deep = maps[-1][0], min(maps, key=lambda m: m[2])[0]
        yield "Add the type and outline", _cut(experiment, maps[-1][1], ("type_and_outline", {}, (fine, deep)))
    levels = _levels(maps)
    if len(levels) > 1:
        wires = tuple(wire for wire, _, _ in levels)
        for name in _DECODERS:
            settings = {"resolution": "scan"} if name == "unet_decoder" else {}
            steps: list[_Step] = [(name, settings, wires), ("type_and_outline", {}, ("", wires[-1]))]
            words = f"Add a {LAYERS[name].title} and the type and outline"
            yield words, _cut(experiment, max(at for _, at, _ in levels), *steps)
    for at in reversed(range(len(experiment.network))):
        node = experiment.network[at]
        if node.name == "timm_backbone" and node.params.get("output") != "stages":
            opened = experiment.replace(f"network.{node.id}.params.output", "stages")
            own = _levels([m for m in _maps(opened, plan_of(opened, num_classes)) if m[1] == at])
            wires = tuple(wire for wire, _, _ in own)
            if len(wires) > 1:
                steps = [
                    ("unet_decoder", {"resolution": "scan"}, wires),
                    ("type_and_outline", {}, ("", wires[-1])),
                ]
                words = f"Let {node.id} give its stages, add a U-Net decoder and the type and outline"
                yield words, _cut(opened, at, *steps)
    if maps:
        yield "Add the type and outline", _cut(experiment, maps[-1][1], ("type_and_outline", {}, (maps[-1][0],)))


def _of_volumes(experiment: Experiment, planned: Plan) -> Iterator[tuple[str, Experiment]]:
    """For patches of volumes: after the last layer that gives a volume, else a whole network anew."""
    for at in reversed(range(len(experiment.network))):
        node, place = experiment.network[at], planned.nodes[at]
        if node.name not in _HEADS and place.layout == "volume" and place.shape is not None:
            wires = (node.id, f"{node.id}:1") if place.taps else (node.id,)
            yield "Add the type and outline", _cut(experiment, at, ("type_and_outline", {}, wires))
    unet = Node(id="unet", name="monai_unet", params={"levels": 3, "flat_levels": 1})
    answer = Node(id="answer", name="type_and_outline", inputs=("unet", "unet:1"))
    yield "Use a whole U-Net with the type and outline instead", experiment.replace("network", (unet, answer))


def _maps(experiment: Experiment, planned: Plan) -> list[tuple[str, int, int]]:
    """(wire, position of its layer, height) of every map that a layer gives, heads left out."""
    found = []
    for at, (node, place) in enumerate(zip(experiment.network, planned.nodes, strict=True)):
        if node.name in _HEADS or place.shape is None:
            continue
        for number, shape in enumerate(place.taps, 1):
            if len(shape) == 3 and place.layout == "maps":
                found.append((f"{node.id}:{number}", at, shape[1]))
        if place.layout == "maps" and not place.taps:
            found.append((node.id, at, place.shape[1]))
    return found


def _levels(maps: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """The last map of each size of 2 and more px, the largest first."""
    last = {height: (wire, at, height) for wire, at, height in maps if height > 1}
    return [last[height] for height in sorted(last, reverse=True)]


def _cut(experiment: Experiment, at: int, *steps: _Step) -> Experiment:
    """The document without what follows layer number `at`, and `steps` in its place; an input "" is the step above."""
    experiment = experiment.replace("network", experiment.network[: at + 1])
    for name, params, inputs in steps:
        above = experiment.network[-1].id if experiment.network else INPUT
        wires = tuple(wire or above for wire in inputs)
        experiment = experiment.insert(
            Node(id=experiment.fresh_id(name), name=name, params=params, inputs=() if wires == (above,) else wires)
        )
    return experiment


def problems(experiment: Experiment, fingerprint: Any) -> list[Problem]:
    """What stands in the way of learning from this data set, and what makes its figures doubtful."""
    if fingerprint is None:
        return []
    found = _about_patches(experiment)

    def say(
        message: str, severity: str = "error", path: str = "data.dataset", repair: str = "", value: Any = None
    ) -> None:
        fix = experiment.replace(path, value) if repair else None
        found.append(Problem(path, message, severity, repair, fix))

    classes = tuple(fingerprint.classes)
    masks = {split: fingerprint.num_masked.get(split, 0) for split in ("train", "val", "test")}
    counts = {split: dict(fingerprint.class_counts.get(split, {})) for split in masks}
    typed = {split: sum(of.values()) if len(classes) > 1 else 0 for split, of in counts.items()}
    if fingerprint.multi_label:
        say("A tumor has one type, but this data set has several labels a scan; recognition can learn those.")
        return found
    if not any(masks.values()) and not any(typed.values()):
        say(
            "The scans carry neither outlines nor two types. Import them with masks or types, or draw outlines on the "
            "Data page."
        )
        return found
    if fingerprint.num_patients < 3:
        who = "one patient" if fingerprint.num_patients == 1 else f"{fingerprint.num_patients} patients"
        say(
            f"All scans come from {who}; training, validation and test need at least one patient each. Add scans of "
            "other patients, or say how patients are told apart."
        )
    if astride := fingerprint.num_patients_astride:
        say(
            f"{astride} patient{'s have' if astride > 1 else ' has'} scans on more than one side of the split the "
            "source gave; figures will be too good.",
            "warning",
        )
    found += _about_outlines(experiment, fingerprint, masks)
    found += _about_types(experiment, classes, counts, typed)
    found += _about_balance(experiment, fingerprint, counts["train"] if typed["train"] else {}, masks["train"])
    for split, words in (("train", "training"), ("val", "validation"), ("test", "test")):
        if not masks[split] and not typed[split]:
            use = {"train": "nothing can be learned", "val": "the best epoch cannot be chosen by it"}
            said = f"The {words} split has no scan with an outline or a type: "
            say(said + use.get(split, "nothing can be said of it") + ".", "warning" if split == "test" else "error")
    return found


def _about_patches(experiment: Experiment) -> list[Problem]:
    """Volumes are learned from patches, and patches are cut out of volumes: one without the other is neither."""
    data = experiment.data
    if data.layout == "volume" and not data.blocks:
        words = "The outline of a volume is learned from patches of it, at its own resolution."
        return [Problem("data.fit", words, "error", "Cut patches", experiment.replace("data.fit", "patches"))]
    if data.fit == "patches" and not data.blocks:
        words = "Here patches are cut out of volumes, but the network sees single pictures."
        fix = experiment.replace("data.fit", "pad")
        return [Problem("data.fit", words, "error", "See whole pictures", fix)]
    if data.blocks and data.colour == "neighbours":
        words = "A volume holds each slice's neighbours already: as channels they would be there three times."
        return [Problem("data.colour", words, "error", "Use grey", experiment.replace("data.colour", "grey"))]
    return []


def _about_outlines(experiment: Experiment, fingerprint: Any, masks: dict[str, int]) -> list[Problem]:
    found = []
    data = experiment.data

    def warn(message: str, path: str = "data.dataset", repair: str = "", value: Any = None) -> None:
        fix = experiment.replace(path, value) if repair else None
        found.append(Problem(path, message, "warning", repair, fix))

    monitor = experiment.training.monitor
    if not masks["train"]:
        warn("No training scan has an outline: only the type is learned. Draw outlines, or train recognition instead.")
    elif masks["train"] < FEW_CASES:
        warn(f"Only {masks['train']} training scans have an outline. Under {FEW_CASES}, results are mostly luck.")
    empty = fingerprint.num_empty.get("mask", {})
    if masks["train"] and empty.get("train", 0) == masks["train"]:
        words = "Every outline of the training scans is empty: there is no tumor to learn from."
        found.append(Problem("data.dataset", words))
    if monitor in ("dice", "iou") and not masks["val"] - empty.get("val", 0):
        words = f"No validation scan shows an outlined tumor, so {monitor} cannot choose the best epoch."
        warn(words, "training.monitor", "Watch auc", "auc")
    for split, said in (("val", "validation"), ("test", "test")):
        if masks["train"] and not masks[split]:
            warn(f"No {said} scan has an outline: how well outlines fit cannot be told there.")
    if data.slices == "middle" and fingerprint.num_slices and fingerprint.num_slices["max"] > 1:
        words = "Scans have several slices, of which the network sees the middle one: tumors beside it are missed."
        warn(words, "data.slices", "See each slice", "each")
    return found


def _about_balance(experiment: Experiment, fingerprint: Any, types: dict[str, int], outlined: int) -> list[Problem]:
    """Says it where the balance has nothing to balance: types, or without two of them, outlines and empty ones."""
    balance = experiment.training.balance
    if balance == "none" or sum(count > 0 for count in types.values()) > 1:
        return []
    if balance == "weights":
        words = "Class weights are of types, and the training scans have fewer than two: they change nothing."
    else:
        # Of a scan of several slices some show the tumor and some do not.
        single = experiment.data.blocks or not fingerprint.num_slices or fingerprint.num_slices["max"] == 1
        if not single or not outlined or fingerprint.num_empty.get("mask", {}).get("train", 0):
            return []
        words = (
            "The training scans have fewer than two types, and each outline shows a tumor: the sampler has nothing to "
            "balance and changes nothing."
        )
    fix = experiment.replace("training.balance", "none")
    return [Problem("training.balance", words, "warning", "Switch it off", fix)]


def _about_types(
    experiment: Experiment, classes: tuple[str, ...], counts: dict[str, dict[str, int]], typed: dict[str, int]
) -> list[Problem]:
    monitor = experiment.training.monitor
    if len(classes) < 2 or not typed["train"]:
        have = "fewer than two types" if len(classes) < 2 else "no type on its training scans"
        words = f"The data set has {have}: only the outline is learned."
        if monitor in ("auc", "balanced_accuracy"):
            fix = experiment.replace("training.monitor", "dice")
            return [Problem("training.monitor", words, "warning", "Watch dice", fix)]
        return [Problem("data.dataset", words, "warning")]
    found = []
    for split, said in (("train", "training"), ("val", "validation"), ("test", "test")):
        missing = [name for name in classes if not counts[split].get(name, 0)]
        if missing and typed[split]:
            names = ", ".join(repr(name) for name in missing)
            what = "so it cannot be learned" if split == "train" else "so its figures there say nothing of it"
            words = f"No {said} scan is of type {names}, {what}."
            found.append(Problem("data.dataset", words, "error" if split == "train" else "warning"))
    return found
