"""A network looked at while it works on one scan: feature maps, filters, activations with their histograms.

`subject` says what is looked at: the scan as the network sees it, a few more of its data set, and the network, with the
weights a training would begin with or those of a finished run. `look` runs it once and writes arrays into a folder; the
answer is plain JSON that says what each holds. No page ever runs a network: this is a short job.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from builder import cutting, network
from builder.data import Dataset, Prepared, prepare, quantize
from builder.network import Plan, Planned
from builder.parts.layers import LAYERS
from builder.prepared import digest
from builder.scans import Scan, read
from builder.spec import INPUT, Experiment, Node, feeder
from builder.stepping import geometry

if TYPE_CHECKING:
    import torch
    from torch import nn

SAMPLES = {"CT": "CT_small.dcm", "MR": "MR_small.dcm"}
"""Real DICOM files out of pydicom's own test files, to look at without any data set."""

MAX_MAPS = 64
"""Channels of a layer that are kept as pictures."""
MAX_SIDE = 192
"""Longest side in px of a kept picture; larger ones are reduced by whole steps."""
MAX_BYTES = 16_000_000
"""Size above which a layer's numbers are not kept for stepping through."""
MAX_FOLDER_BYTES = 256_000_000
"""Size that one look may write: one half for the pictures of all layers alike, one for numbers to step through."""
MAX_ROW = 4096
"""Numbers of a vector that are kept."""
PROBES = 8
NUM_SCANS = 8
"""Scans over which dead units are counted and batch norms are set."""
BINS = 60
CURVE = 241
_NUMBER = 4  # bytes of a float32
FLAT = 0.05
"""Share of a function's steepest slope under which a value counts as standing on a flat part."""


class LookError(ValueError):
    """Something that cannot be looked at. Its text is one sentence for people."""


@dataclass(frozen=True)
class Subject:
    """What is looked at.

    Attributes:
        experiment: whose network. nodes, plan: the part of it that works. net: that part, ready, in eval mode.
        scans: (N, ...) float32 as the network gets them, normalized; the first is the one to look at.
        image: that one in [0, 1], as prepared. scan, weights: in words, where both came from.
    """

    experiment: Experiment
    nodes: tuple[Node, ...]
    plan: Plan
    net: nn.Module
    scans: np.ndarray
    image: np.ndarray
    scan: str
    weights: str


def subject_digest(experiment: Experiment) -> str:
    """Names what feature maps depend on: network, preparation and seed. A page compares it to see what is old."""
    plain = experiment.model_dump(mode="json")
    told = {"network": plain["network"], "data": plain["data"], "seed": plain["training"]["seed"]}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def sample(name: str) -> Scan:
    """A DICOM file of pydicom's own, by a key of `SAMPLES`. Raises LookError where pydicom came without it."""
    from pydicom.data import get_testdata_file

    if name not in SAMPLES:
        raise LookError(f"There is no sample scan {name!r}; there are {', '.join(SAMPLES)}.")
    path = get_testdata_file(SAMPLES[name], download=False)
    if path is None:
        raise LookError("The sample scans are not installed on this machine; choose a data set instead.")
    return read(Path(str(path)))


def sound(experiment: Experiment, num_classes: int) -> tuple[tuple[Node, ...], Plan]:
    """The layers that work, those that nothing broken feeds, with their wires written out; and their plan.

    Raises:
        LookError: not even the first layer works.
    """
    planned = network.plan_of(experiment, num_classes)
    good = {n.id for n in planned.nodes if n.shape is not None}
    nodes = tuple(
        node.model_copy(update={"inputs": told.inputs})
        for node, told in zip(experiment.network, planned.nodes, strict=True)
        if node.id in good
    )
    if not nodes:
        raise LookError("There is no layer yet that can work on a scan: add one, or mend the first.")
    return nodes, network.plan(nodes, planned.input, num_classes, planned.layout)


def untrained(experiment: Experiment, scan: Scan, words: str, dataset: Dataset | None = None) -> Subject:
    """The network of a draft as a training would begin it (same seed, same weights), and `scan`.

    Its batch norms, which know nothing yet, take their statistics from this scan and up to seven training scans.
    """
    import torch

    from builder.batches import normalization

    num_classes = max(2, len(dataset.classes)) if dataset is not None else 2
    nodes, plan = sound(experiment, num_classes)
    unit = dataset.unit if dataset is not None else 65535
    images = [_prepared(scan, experiment, unit)]
    images += [_prepared(other, experiment, unit) for other in _others(dataset)]
    known = _known(dataset, experiment)
    if known is None:
        stack = np.stack(images)
        axis = stack.ndim + experiment.data.channel_axis
        rest = tuple(d for d in range(stack.ndim) if d != axis)
        spread = np.maximum(stack.std(rest), 1e-6)
        known = Prepared(np.zeros((0, *images[0].shape), np.uint16), unit, stack.mean(rest), spread)
    mean, std = normalization(experiment, known)
    net = network.assemble(nodes, plan.input, num_classes, plan.layout, seed=experiment.training.seed).eval()
    scans = _normalized(np.stack(images), mean, std, experiment)
    set_norms = _set_norms(net, torch.from_numpy(scans))
    said = f"Untrained: the weights a training with seed {experiment.training.seed} begins with"
    if set_norms:
        many = f"{len(scans)} scans" if len(scans) > 1 else "this scan"
        said += f", batch norms set on {many}"
    return Subject(experiment, nodes, plan, net, scans, images[0], words, said + ".")


def of_run(folder: Path, experiment: Experiment, scan: Scan, words: str, dataset: Dataset | None = None) -> Subject:
    """The network of a finished run, with its best weights and its own normalization.

    Raises:
        LookError: its network or preparation is not that of `experiment`. PredictError: it cannot be opened.
    """
    from builder.predict import Predictor

    predictor = Predictor.open(folder)
    own = predictor.experiment
    if own.network != experiment.network or not same_preparation(own, experiment):
        raise LookError("This run has another network or preparation than the editor: choose another, or no run.")
    nodes, plan = sound(own, len(predictor.classes))
    images = [_seen(predictor.prepared(other), own) for other in (scan, *_others(dataset))]
    scans = _normalized(np.stack(images), predictor.mean, predictor.std, own)
    return Subject(own, nodes, plan, predictor.net, scans, images[0], words, f"The best weights of run {folder.name}.")


def same_preparation(one: Experiment, other: Experiment) -> bool:
    """Whether two experiments make the same picture of a scan, whatever data set they name."""
    apart = {"dataset", "exclude", "leaks"}
    return one.data.model_dump(exclude=apart) == other.data.model_dump(exclude=apart)


def _others(dataset: Dataset | None) -> list[Scan]:
    """A few training scans from all over the data set, so that one alone does not decide what is said of units."""
    indices = dataset.examples("train") if dataset is not None else np.zeros(0, int)
    if dataset is None or not len(indices):
        return []
    places = np.unique(np.linspace(0, len(indices) - 1, NUM_SCANS - 1).astype(int))
    return [dataset.scan(int(i)) for i in indices[places]]


def _prepared(scan: Scan, experiment: Experiment, unit: int) -> np.ndarray:
    return _seen(quantize(prepare(scan, experiment.data), unit).astype(np.float32) / np.float32(unit), experiment)


def _seen(image: np.ndarray, experiment: Experiment) -> np.ndarray:
    """What the network gets at once: of a volume that is looked at in patches the middle one."""
    return cutting.middle(image, experiment.data.shape[1:]) if experiment.data.blocks else image


def _known(dataset: Dataset | None, experiment: Experiment) -> Prepared | None:
    """The data set as prepared for this experiment, where a training has done that already."""
    if dataset is None:
        return None
    folder = dataset.folder / "prepared" / digest(experiment.data, dataset.unit, len(dataset))
    return dataset.prepared(experiment.data) if (folder / "stats.json").exists() else None


def _normalized(images: np.ndarray, mean: Any, std: Any, experiment: Experiment) -> np.ndarray:
    channels = [-1 if d == images.ndim + experiment.data.channel_axis else 1 for d in range(images.ndim)]
    shift, scale = (np.asarray(v, np.float32).reshape(channels) for v in (mean, std))
    return np.ascontiguousarray((images - shift) / scale, np.float32)


def _set_norms(net: nn.Module, scans: torch.Tensor) -> bool:
    """Gives the batch norms that have never seen a batch the statistics of `scans`; whether there was any."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    fresh = [
        m
        for m in net.modules()
        if isinstance(m, _BatchNorm)
        and m.running_mean is not None
        and m.running_var is not None
        and not m.running_mean.any()
        and bool((m.running_var == 1).all())  # pretrained ones say 0 batches, too, but know their means
    ]
    momenta = [m.momentum for m in fresh]

    def learn_from_many(module: Any, args: Any) -> None:
        module.train(args[0].numel() > args[0].shape[1])  # one value has no spread

    hooks = [m.register_forward_pre_hook(learn_from_many) for m in fresh]
    try:
        for m in fresh:
            m.momentum = 1.0  # the statistics of this very batch
        if fresh:
            with torch.no_grad():
                net(scans)
    finally:
        for hook in hooks:
            hook.remove()
        for m, momentum in zip(fresh, momenta, strict=True):
            m.momentum = momentum
            m.eval()
    return bool(fresh)


# -- one pass, everything kept -----------------------------------------------------------------------------------------


def look(subject: Subject, folder: Path) -> dict[str, Any]:
    """Runs the subject's network once, writes what it did to `folder`, and returns the answer as JSON data::

        {digest, scan, weights, num_scans, image, order: [id],
         layers: {id: {shape, layout, low, high, mean, std, wild, zeros, item, items, maps, num_channels, reduced,
                       full, kernels: [{name, shape, file}], histogram, activation, time,
                       step: {geometry, weight, bias, from}}}}

    The layer "input" is the scan itself. `maps` is a file (C, h, w) float32 of the first channels, `full` one of all
    the numbers of the one item (slice, depth) shown, kept where a layer below is stepped through.
    """
    import torch

    keep = _Keeper(folder, len(subject.nodes) + 1)
    image = keep.array("image", _item(subject.image, subject.plan.layout)[0])
    told: dict[str, dict[str, Any]] = {}
    nodes, plan = {n.id: n for n in subject.nodes}, subject.plan
    scans = torch.from_numpy(subject.scans)
    told[INPUT] = _layer(keep, INPUT, scans[0].numpy(), plan.layout)
    wanted = {wire for n in plan.nodes for wire in n.inputs[:1] if _geometry(subject.net, n, plan) is not None}
    if INPUT in wanted:
        told[INPUT]["full"] = keep.array(f"full-{INPUT}", _item(scans[0].numpy(), plan.layout)[0])
    layers: Any = subject.net.get_submodule("layers")

    def seen(planned: Planned) -> Any:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            outs = out if isinstance(out, tuple) else (out,)
            found = _layer(keep, planned.id, outs[-1][0].numpy(), planned.layout)
            for number, one in enumerate(outs, 1):
                for wire in (f"{planned.id}:{number}", *([planned.id] if number == len(outs) else [])):
                    if wire in wanted:
                        values = one[0].numpy()
                        layout = planned.layout if one.dim() == outs[-1].dim() else ""
                        found.setdefault("fulls", {})[wire] = keep.array(f"full-{wire}", _item(values, layout)[0])
            found["full"] = found.get("fulls", {}).get(planned.id)
            found["kernels"] = _kernels(keep, planned, module, plan)
            found["step"] = _stepped(keep, subject.net, planned, plan, told)
            found["time"] = _through_time(nodes[planned.id], module, args)
            found["activation"] = _activation(nodes[planned.id], module, args, planned.layout)
            told[planned.id] = found

        return hook

    hooks = [layers[n.id].register_forward_hook(seen(n)) for n in plan.nodes]
    try:
        with torch.no_grad():
            subject.net(scans)
    finally:
        for hook in hooks:
            hook.remove()
    return {
        "digest": subject_digest(subject.experiment),
        "scan": subject.scan,
        "weights": subject.weights,
        "num_scans": len(scans),
        "image": image,
        "order": [n.id for n in plan.nodes],
        "layers": told,
    }


class _Keeper:
    """Writes arrays into a folder within the allowance."""

    def __init__(self, folder: Path, num_layers: int) -> None:
        self.folder = folder
        (folder / "arrays").mkdir(parents=True, exist_ok=True)
        self._room = MAX_FOLDER_BYTES // 2
        self._share = MAX_FOLDER_BYTES // 2 // num_layers

    def pictures(self, name: str, values: np.ndarray) -> tuple[str, int]:
        """The file of (C, H, W), made smaller by whole steps until it fits what a layer may take, and that step."""
        step = max(1, -(-max(values.shape[1:]) // MAX_SIDE))
        while len(values) * prod(side // step for side in values.shape[1:]) * _NUMBER > self._share:
            step += 1
        return self._saved(name, _reduced(values, step)), step

    def row(self, name: str, values: np.ndarray) -> str:
        """The file of the first numbers of a vector or sequence: next to nothing of what a layer may take."""
        return self._saved(name, values.reshape(-1)[:MAX_ROW])

    def array(self, name: str, values: np.ndarray) -> str | None:
        """The file of an array; None where it is too much."""
        size = values.size * _NUMBER
        if size > min(MAX_BYTES, self._room):
            return None
        self._room -= size
        return self._saved(name, values)

    def _saved(self, name: str, values: np.ndarray) -> str:
        file = f"arrays/{name.replace(':', '-').replace('/', '-')}.npy"
        np.save(self.folder / file, np.ascontiguousarray(values, np.float32), allow_pickle=False)
        return file


def _item(values: np.ndarray, layout: str) -> tuple[np.ndarray, int, int]:
    """What is shown of a layer's output: (its item, the item's number, how many there are).

    The middle slice of a series and the middle depth of a volume; anything else as it is.
    """
    if layout == "series":
        return values[len(values) // 2], len(values) // 2, len(values)
    if layout == "volume":
        return values[:, values.shape[1] // 2], values.shape[1] // 2, values.shape[1]
    return values, 0, 1


def _layer(keep: _Keeper, id: str, values: np.ndarray, layout: str) -> dict[str, Any]:
    """The facts of one output, and its pictures."""
    shown, item, items = _item(values, layout)
    finite = values[np.isfinite(values)]
    pictures = shown if shown.ndim == 3 else shown[None] if shown.ndim == 2 else None
    found: dict[str, Any] = {
        "shape": list(values.shape),
        "layout": layout,
        "low": float(finite.min()) if finite.size else 0.0,
        "high": float(finite.max()) if finite.size else 0.0,
        "mean": float(finite.mean(dtype=np.float64)) if finite.size else 0.0,
        "std": float(finite.std(dtype=np.float64)) if finite.size else 0.0,
        "zeros": float((finite == 0).mean()) if finite.size else 0.0,
        "wild": int(values.size - finite.size),
        "item": item,
        "items": items,
        "histogram": histogram(finite),
        "num_channels": 0,
        "maps": None,
    }
    if pictures is not None:
        found["num_channels"] = len(pictures)
        found["maps"], found["reduced"] = keep.pictures(f"maps-{id}", pictures[:MAX_MAPS])
    else:
        found["maps"] = keep.row(f"maps-{id}", shown)
    return found


def _reduced(pictures: np.ndarray, step: int) -> np.ndarray:
    """(C, H, W) made smaller by whole steps, each pixel the mean of its square; what is left over at the end is cut."""
    if step == 1:
        return pictures
    c, h, w = pictures.shape
    cut = pictures[:, : h // step * step, : w // step * step]
    return cut.reshape(c, h // step, step, w // step, step).mean((2, 4))


def histogram(values: np.ndarray) -> dict[str, Any]:
    """{low, high, counts, outside}: `BINS` counts over the middle 99.8 % of the values, the share that is outside."""
    if not values.size:
        return {"low": 0.0, "high": 1.0, "counts": [0] * BINS, "outside": 0.0}
    low, high = (float(v) for v in np.percentile(values, (0.1, 99.9)))
    if not high > low:
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(values, BINS, (low, high))
    return {"low": low, "high": high, "counts": counts.tolist(), "outside": float(1 - counts.sum() / values.size)}


def _inner(net: nn.Module, planned: Planned) -> Any:
    """The layer itself, out of the wrapper that applies it to every item."""
    module: Any = net.get_submodule("layers")[planned.id]  # type: ignore[index]
    return module.layer if planned.each else module


def _geometry(net: nn.Module, planned: Planned, plan: Plan) -> Any:
    """The geometry of a layer that moves a window over a picture; None for others, and for volumes."""
    shape = plan.along(planned.inputs[0]) if len(planned.inputs) == 1 else None
    if shape is None:
        return None
    item = shape[1:] if planned.each else shape
    return geometry(_inner(net, planned), item) if len(item) == 3 else None


def _stepped(
    keep: _Keeper, net: nn.Module, planned: Planned, plan: Plan, told: dict[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """What stepping through a layer needs: {geometry, weight, bias, from}; None where it cannot be stepped through."""
    found = _geometry(net, planned, plan)
    if found is None:
        return None
    wire = planned.inputs[0]
    source = told.get(feeder(wire), {})
    full = source.get("fulls", {}).get(wire) or (source.get("full") if ":" not in wire else None)
    if full is None:
        return None
    module = _inner(net, planned)
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    files: dict[str, str | None] = {"weight": None, "bias": None}
    for name, values in (("weight", weight), ("bias", bias)):
        if values is not None:
            files[name] = keep.array(f"{name}-{planned.id}", values.detach().numpy())
            if files[name] is None:
                return None
    return {"geometry": found.to_json(), "from": full, **files}


def _kernels(keep: _Keeper, planned: Planned, module: nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """The filters of a layer, of a block the first six, and of a linear layer over a flattened picture its pictures."""
    from torch import nn

    found: list[dict[str, Any]] = []
    inner: Any = getattr(module, "layer", module) if planned.each else module
    for name, part in inner.named_modules():
        weight = getattr(part, "weight", None)
        if not isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d) or weight is None:
            continue
        values = weight.detach().numpy()
        if isinstance(part, nn.ConvTranspose2d):
            values = values.swapaxes(0, 1)
        shape, values = list(values.shape), values[:, :, values.shape[2] // 2] if values.ndim == 5 else values
        values = values[:, :, None] if values.ndim == 3 else values
        file = keep.array(f"kernels-{planned.id}-{len(found)}", values)
        if file is None:
            continue
        found.append({"name": name, "shape": shape, "file": file})
        if len(found) == 6:
            return found
    if isinstance(inner, nn.Linear) and not found:
        above = next((n for n in plan.nodes if n.id == feeder(planned.inputs[0])), None)
        source = plan.along(above.inputs[0]) if above is not None and above.name == "flatten" else None
        if source is not None and len(source) == 3 and prod(source) == inner.in_features:
            values = inner.weight.detach().numpy().reshape(-1, *source)
            if file := keep.array(f"kernels-{planned.id}-0", values):
                found.append({"name": "", "shape": list(values.shape), "file": file})
    return found


def _activation(node: Node, module: nn.Module, args: Sequence[torch.Tensor], layout: str) -> dict[str, Any] | None:
    """An activation function with what comes into it; None for other layers.

    {histogram: of what comes in for this scan, curve: {x, y} or None where the function looks at more than one value,
     flat: share of this scan's values where the slope is under `FLAT` of its steepest, zero: share that comes out as 0,
     units, dead: units that are flat everywhere on all scans, num_scans}
    """
    import torch

    if node.name not in LAYERS or LAYERS[node.name].group != "Activation" or len(args) != 1:
        return None
    x = args[0].detach()
    values = x[0].numpy()
    found: dict[str, Any] = {"histogram": histogram(values[np.isfinite(values)]), "curve": None}
    if not _one_by_one(module, x):
        return found
    low, high = found["histogram"]["low"], found["histogram"]["high"]
    room = 0.15 * (high - low)
    # The picture shows the origin, where most functions bend, whatever the data does.
    grid = torch.linspace(min(low - room, -1.0), max(high + room, 1.0), CURVE)
    axis = 2 if layout in ("series", "sequence") else 1  # where channels or features lie
    y = _at(module, grid, x, axis)
    with torch.enable_grad():
        inner = x.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(module.forward(inner).sum(), inner)
    steepest = float(torch.gradient(y, spacing=(grid,))[0].abs().max()) or 1.0
    flat = slope.abs() < FLAT * steepest
    per_unit = flat.movedim(axis, 0).flatten(1).all(1)
    found |= {
        "curve": {"x": grid.tolist(), "y": y.tolist()},
        "flat": float(flat[0].float().mean()),
        "zero": float((module.forward(x[:1]) == 0).float().mean()),
        "units": len(per_unit),
        "dead": int(per_unit.sum()),
        "num_scans": len(x),
    }
    return found


def _through_time(node: Node, module: nn.Module, args: Sequence[torch.Tensor]) -> dict[str, Any] | None:
    """How much the last state of a recurrent layer hears of each step, for this scan; None for other layers.

    {memory: (T,) Frobenius norm of the derivative of the last state after step t's input, kind, truncated,
    bidirectional}. The norm is estimated with random signs (Hutchinson 1990): E |v J|^2 = |J|_F^2. It is that of a
    training, where the gradient is cut every `truncated` steps.
    """
    import torch

    if node.name not in ("rnn", "lstm", "gru") or len(args) != 1 or args[0].dim() != 3:
        return None
    dice = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        x = args[0][:1].detach().clone().requires_grad_(True)
        module.training = True  # of the layer alone, not of what is in it: it cuts, but no value is dropped
        try:
            out = module.forward(x)
        finally:
            module.training = False
        last = out[:, -1] if out.dim() == 3 else out
        squares = torch.zeros(x.shape[1])
        for _ in range(PROBES):
            signs = torch.randint(0, 2, last.shape, generator=dice) * 2.0 - 1.0
            (slope,) = torch.autograd.grad((last * signs).sum(), x, retain_graph=True)
            squares += slope[0].square().sum(1)
    memory = (squares / PROBES).sqrt().tolist()
    both = bool(node.params.get("bidirectional"))
    truncated = int(node.params.get("bptt") or 0)
    return {"memory": memory, "kind": node.name, "truncated": truncated, "bidirectional": both}


def _one_by_one(module: nn.Module, x: torch.Tensor) -> bool:
    """Whether each number that comes out depends on the one at its place alone: changing one changes only that one."""
    import torch

    one = x[:1].clone()
    place = tuple(0 for _ in one.shape)
    changed = one.clone()
    changed[place] = changed[place] + 1.0
    before, after = module.forward(one), module.forward(changed)  # not the module itself: it is being watched
    if before.shape != one.shape:
        return False
    rest = torch.ones_like(before, dtype=torch.bool)
    rest[place] = False
    return bool(torch.equal(before[rest], after[rest]))


def _at(module: nn.Module, grid: torch.Tensor, x: torch.Tensor, axis: int) -> torch.Tensor:
    """The function at each value of `grid` (N,), averaged over the channels where these have settings of their own."""
    shape = [len(grid), *[x.shape[axis] if d == axis else 1 for d in range(1, x.dim())]]
    spread = grid.reshape(-1, *[1] * (x.dim() - 1)).expand(shape)
    return cast("torch.Tensor", module.forward(spread.contiguous()).flatten(1).mean(1).detach())
