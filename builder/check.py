"""What is wrong with an experiment: all of it together, each with place, sentence and, where possible, a repair."""

from typing import Any

from builder import leaks, ways
from builder.augment_safety import verdicts
from builder.catalog import Catalog, Part, UnknownPart
from builder.data import Fingerprint
from builder.network import Plan, Planned, beginning_of, plan_of, settings, show, wires
from builder.parts.images import AUGMENTATIONS, DEGRADATIONS, MIXING, PREPARE
from builder.parts.layers import LAYERS
from builder.parts.training import AVERAGES, GROUP, LOSSES, OPTIMIZERS, SCHEDULES, TRAINING
from builder.repairs import endings, patched, repairs
from builder.search.checks import faults
from builder.shares import still
from builder.spec import Experiment, Node, Problem, SpecError, feeder
from builder.task import TASKS, find, unfit
from builder.weights import WeightsError, fetched, missing

__all__ = ["problems"]

ASSUMED_CLASSES = 2
"""Classes a network is planned for while no data set is chosen."""


def problems(
    experiment: Experiment, fingerprint: Fingerprint | None = None, planned: Plan | None = None
) -> list[Problem]:
    """Returns everything that is wrong with `experiment`, errors first, in the order of the document.

    Args:
        fingerprint: of the data set it names; None while none is chosen (then the data's side is not checked).
        planned: its network for that many classes, where that is known already.
    """
    if planned is None:
        planned = plan_of(experiment, len(fingerprint.classes) if fingerprint else ASSUMED_CLASSES)
    found = [
        *_settings(
            experiment, "data", PREPARE, experiment.data.model_dump(exclude={"dataset", "degrade", "exclude", "leaks"})
        ),
        *_choice(experiment, "data.degrade", DEGRADATIONS),
        *(unfit(experiment) if experiment.task in TASKS else ()),
        *_data(experiment, fingerprint),
        *_network(experiment, fingerprint, planned),
        *_choice(experiment, "training.optimizer", OPTIMIZERS),
        *_choice(experiment, "training.schedule", SCHEDULES),
        *_choice(experiment, "training.loss", LOSSES),
        *_choice(experiment, "training.average", AVERAGES),
        *_groups(experiment, planned),
        *_augment(experiment),
        *(said for said in verdicts(experiment, fingerprint) if said.severity == "warning"),
        *_settings(
            experiment,
            "training",
            TRAINING,
            experiment.training.model_dump(exclude={"optimizer", "schedule", "loss", "augment", "average", "groups"}),
        ),
    ]
    found += _machine(experiment)
    found += faults(experiment, len(fingerprint.classes) if fingerprint else ASSUMED_CLASSES)
    if not found or all(p.severity == "warning" for p in found):
        found += _memory(experiment, planned)
    return sorted(found, key=lambda p: p.severity != "error")


def _machine(experiment: Experiment) -> list[Problem]:
    """What is asked of the machine and not there: said before the start, since it would change nothing or cost time."""
    training, found = experiment.training, []
    gpu = ways.has_gpu()
    if training.compile == ways.GRAPHS and not gpu:
        words = "CUDA graphs exist on NVIDIA GPUs only, and torch finds none here: the network is not compiled."
        found.append(("compile", words, "off"))
    elif training.compile != "off" and (lacking := ways.compiler_words(gpu)):
        found.append(("compile", f"The network cannot be compiled. {lacking}", "off"))
    if training.mixed_precision in ways.HALVES and not gpu:
        words = (
            f"There is no GPU here: a processor computes in {training.mixed_precision}, too, but mostly slower than in "
            "float32. Pre-flight measures it."
        )
        found.append(("mixed_precision", words, "auto"))
    if training.resident == "off" and not gpu:
        found.append(("resident", "There is no GPU here: the scans come from the disk in any case.", "auto"))
    return [
        Problem(f"training.{n}", words, "warning", f"Set it to {v}", _fix(experiment, f"training.{n}", v))
        for n, words, v in found
    ]


def _fix(experiment: Experiment, path: str, value: Any) -> Experiment | None:
    try:
        return experiment.replace(path, value)
    except SpecError:
        return None


def _settings(experiment: Experiment, path: str, part: Part, values: dict[str, Any]) -> list[Problem]:
    """Checks plain settings below `path` against the domains of `part`."""
    found = []
    for name, value in values.items():
        place = f"{path}.{name}"
        try:
            domain = part.param(name)
        except UnknownPart as error:
            found.append(Problem(place, str(error), repair="Remove this setting", fix=_fix(experiment, place, None)))
            continue
        try:
            domain.parse(value)
        except ValueError as error:
            near = domain.nearest(value)
            found.append(Problem(place, str(error), repair=f"Use {near}", fix=_fix(experiment, place, near)))
    return found


def _choice(experiment: Experiment, path: str, catalog: Catalog) -> list[Problem]:
    choice = experiment.at(path)
    try:
        part = catalog[choice.name]
    except UnknownPart as error:
        near = catalog.names[0]
        return [
            Problem(
                f"{path}.name",
                str(error),
                repair=f"Use {catalog[near].title}",
                fix=_fix(experiment, path, {"name": near, "params": {}}),
            )
        ]
    return _settings(experiment, f"{path}.params", part, choice.params)


def _augment(experiment: Experiment) -> list[Problem]:
    found = []
    names = [c.name for c in experiment.training.augment]
    for choice in experiment.training.augment:
        path = f"training.augment.{choice.name}"
        without = tuple(c for c in experiment.training.augment if c is not choice)
        removed = experiment.replace("training.augment", without)
        if choice.name not in AUGMENTATIONS:
            try:
                AUGMENTATIONS[choice.name]
            except UnknownPart as error:
                found.append(Problem(path, str(error), repair="Remove it", fix=removed))
            continue
        if names.count(choice.name) > 1:
            found.append(Problem(path, f"{choice.name} is chosen twice.", repair="Remove one", fix=removed))
        if choice.name in MIXING and experiment.task in TASKS and not find(experiment.task).mixes:
            title = AUGMENTATIONS[choice.name].title
            words = (
                f"{title} makes one scan of two and teaches both answers in part; "
                f"{TASKS[experiment.task].title.lower()} has none that could hold in part. It is for recognition."
            )
            found.append(Problem(path, words, repair="Remove it", fix=removed))
        if choice.name == "colour" and experiment.data.colour == "grey":
            words = "Colour jitter needs colour: the scans are prepared as grey pictures."
            found.append(Problem(path, words, repair="Remove it", fix=removed))
        found += _settings(experiment, f"{path}.params", AUGMENTATIONS[choice.name], choice.params)
    return found


def _groups(experiment: Experiment, planned: Plan) -> list[Problem]:
    """Layers that learn otherwise than the rest: each named once, there, with factors in range, and not all at 0."""
    found, known = [], {node.id for node in experiment.network}
    groups, taken = experiment.training.groups, dict[str, str]()
    for group in groups:
        path = f"training.groups.{group.name}"
        found += _settings(experiment, path, GROUP, group.model_dump(exclude={"name", "nodes"}))
        gone = [id for id in group.nodes if id not in known]
        if gone:
            rest = tuple(id for id in group.nodes if id in known)
            words = f"The network has no layer {' and no layer '.join(gone)} any more."
            fixed = _fix(experiment, f"{path}.nodes", rest)
            found.append(Problem(f"{path}.nodes", words, repair="Leave it out of the group", fix=fixed))
        elif not group.nodes:
            fixed = _fix(experiment, "training.groups", [g for g in groups if g.name != group.name])
            words = f"The group {group.name} has no layer."
            found.append(Problem(f"{path}.nodes", words, "warning", "Remove the group", fixed))
        for id in group.nodes:
            if taken.setdefault(id, group.name) != group.name:
                words = f"{id} is in the groups {taken[id]} and {group.name}: only one can say how it learns."
                fixed = _fix(experiment, f"{path}.nodes", tuple(n for n in group.nodes if n != id))
                found.append(Problem(f"{path}.nodes", words, repair=f"Leave it in {taken[id]}", fix=fixed))
    taught = {node.id for node in planned.nodes if node.parameters}
    if taught and taught <= {*still(experiment)}:
        first = next(group.name for group in groups if not group.lr_factor and taught & {*group.nodes})
        path = f"training.groups.{first}.lr_factor"
        words = "Every layer that could learn has a learning rate of 0: the network would learn nothing."
        found.append(Problem(path, words, repair="Let these learn", fix=_fix(experiment, path, 1.0)))
    return found


def _data(experiment: Experiment, fingerprint: Fingerprint | None) -> list[Problem]:
    if experiment.task not in TASKS:
        try:
            TASKS[experiment.task]
        except UnknownPart as error:
            near = TASKS.names[0]
            return [Problem("task", str(error), repair=f"Use {TASKS[near].title}", fix=_fix(experiment, "task", near))]
    if fingerprint is None:
        if experiment.data.dataset:
            return [Problem("data.dataset", f"There is no data set {experiment.data.dataset!r} on this machine.")]
        return [Problem("data.dataset", "No scans are chosen yet. Choose a data set, or import one on the Data page.")]
    return [
        *_slices(experiment, fingerprint),
        *leaks.problems(experiment, fingerprint),
        *find(experiment.task).problems(experiment, fingerprint),
    ]


def _slices(experiment: Experiment, fingerprint: Fingerprint) -> list[Problem]:
    """Says it where a series or volume is asked of scans that have no, or too few, slices."""
    data, counts = experiment.data, fingerprint.num_slices
    if data.layout == "maps" or not counts:
        return []
    what = f"a {data.layout}"
    if counts["max"] < 2:
        words = f"Every scan of this data set is a single picture; {what} needs scans of several slices."
        return [Problem("data.slices", words, repair="See one picture", fix=_fix(experiment, "data.slices", "middle"))]
    if data.blocks:
        return _patches(experiment, fingerprint)
    if data.num_slices <= counts["median"] and counts["min"] > 1:
        return []
    fewer = "single pictures" if counts["min"] < 2 else f"of only {counts['min']} slices"
    filled = "one slice is shown several times" if data.slice_choice == "spread" else "black slices fill the rest"
    least = max(2, counts["min"] if data.num_slices <= counts["median"] else counts["median"])
    words = f"Some scans are {fewer}, but the network sees {data.num_slices}: of those, {filled}."
    fix = _fix(experiment, "data.num_slices", least) if least < data.num_slices else None
    return [Problem("data.num_slices", words, "warning", f"Use {least} slices" if fix else "", fix)]


_SLICES, _SIDES = "data.num_slices", "data.size_px"


def _patches(experiment: Experiment, fingerprint: Fingerprint) -> list[Problem]:
    """Says it where patches of volumes are larger than the volumes, or a size in mm is asked of scans without one."""
    data, found = experiment.data, []
    known = fingerprint.spacing_mm.get("median", (None, None, None))
    scale = []
    for wanted, own, path, what in (
        (data.slice_mm, known[0], "data.slice_mm", "slices"),
        (data.pixel_mm, known[1], "data.pixel_mm", "pixels"),
    ):
        if wanted and not own:
            words = f"The scans do not say how far their {what} lie apart, so they cannot be brought to {wanted:g} mm."
            found.append(Problem(path, words, "error", "Keep them as they are", _fix(experiment, path, 0.0)))
        scale.append(own / wanted if wanted and own else 1.0)
    sides = {at: [min(fingerprint.sizes[at]), max(fingerprint.sizes[at])] for at in ("min", "max")}
    for path, patch, factor, least, most, unit in (
        (_SLICES, data.num_slices, scale[0], fingerprint.num_slices["min"], fingerprint.num_slices["max"], "slices"),
        (_SIDES, data.size_px, scale[1], sides["min"][0], sides["max"][1], "px"),
    ):
        small, large = max(1, round(least * factor)), max(1, round(most * factor))
        if patch > 2 * large:
            words = f"Patches of {patch} {unit} are more than twice as large as the largest scan ({large} {unit}): "
            words += "most of each would be black."
            near = max(2, large) if path == _SLICES else max(16, large // 8 * 8)
            found.append(Problem(path, words, "error", f"Use {near} {unit}", _fix(experiment, path, near)))
        elif patch > small:
            some = "All scans" if patch > large else "Some scans"
            words = (
                f"{some} have fewer {unit} ({small} to {large}) than the {patch} of a patch: black lies around them."
            )
            found.append(Problem(path, words, "warning"))
    return found


def _unnamed(experiment: Experiment, node: Node) -> list[Problem]:
    """Says it where fetched weights are named by their model alone, and offers to write down which they are."""
    one = fetched(str(settings(node)["model"])) if node.params.get("weights") == "download" else None
    if one is None:
        return []
    path = f"network.{node.id}.params"
    words = f"These weights are named by their model alone, not by their content ({one.sha256[:12]})."
    fixed = experiment.replace(f"{path}.weights", "file").replace(f"{path}.file", one.sha256)
    return [Problem(f"{path}.weights", words, "warning", "Write down which they are", fixed)]


def _stored(experiment: Experiment, num_classes: int) -> list[Problem]:
    """Says it where the stored weights of the whole network are gone, or where some layers do not begin with them."""
    begin = "Begin at random", _fix(experiment, "weights", "")
    try:
        found = beginning_of(experiment, num_classes)
    except WeightsError as error:
        return [Problem("weights", str(error), "error", *begin)]
    if not found.begun:
        words = f"The stored weights {experiment.weights[:12]} fit none of these layers; they are of another network."
        return [Problem("weights", words, "error", *begin)]
    if not found.others:
        return []
    names = ", ".join(found.others[:6]) + (f" and {len(found.others) - 6} more" if len(found.others) > 6 else "")
    words = f"Layers that are not in the stored weights begin as they do without them: {names}."
    return [Problem("weights", words, "warning")]


def _network(experiment: Experiment, fingerprint: Fingerprint | None, planned: Plan) -> list[Problem]:
    nodes = experiment.network
    if not nodes:
        return [Problem("network", "The network has no layers yet. Add one, or begin from a starter.")]
    num_classes = len(fingerprint.classes) if fingerprint else ASSUMED_CLASSES
    found = [_layer_problem(experiment, planned, n, num_classes) for n in planned.nodes if n.message]
    found += _single_numbers(experiment, planned)
    if experiment.weights and not found:
        found += _stored(experiment, num_classes)
    for node, place in zip(nodes, planned.nodes, strict=True):
        if not place.message and (said := missing(LAYERS[node.name], settings(node))):
            path = f"network.{node.id}.params.weights"
            begin = "Begin at random", _fix(experiment, path, "none")
            found.append(Problem(f"network.{node.id}.params.{said[0]}", said[1], "error", *begin))
        if not place.message:
            found += [*_unnamed(experiment, node), *_idle(experiment, node)]
    used = {feeder(i) for feeds in wires(nodes) for i in feeds}
    for node in nodes[:-1]:
        if node.id not in used:
            found.append(
                Problem(
                    f"network.{node.id}",
                    "Nothing uses what this layer puts out.",
                    "warning",
                    "Remove this layer",
                    experiment.remove(node.id),
                )
            )
    if planned.output is not None and experiment.task in TASKS:
        found += _head(experiment, planned, num_classes, known=fingerprint is not None)
    return found


def _idle(experiment: Experiment, node: Node) -> list[Problem]:
    """Settings of a layer that do nothing beside its others."""
    part, given = LAYERS[node.name], settings(node)
    found = []
    for idle in part.idle:
        default = part.param(idle.name).default
        if idle.applies(given, default):
            path = f"network.{node.id}.params.{idle.name}"
            found.append(Problem(path, idle.words, "warning", f"Set it to {default}", _fix(experiment, path, default)))
    return found


def _single_numbers(experiment: Experiment, planned: Plan) -> list[Problem]:
    """Says it where a batch norm would see one number of each channel: torch refuses that in training."""
    if experiment.training.batch_size > 1:
        return []
    words = (
        "With batches of one scan, each channel here has a single number: batch norm has nothing to compare it with."
    )
    fix = _fix(experiment, "training.batch_size", 2)
    return [Problem(f"network.{n.id}", words, repair="Use batches of 2", fix=fix) for n in planned.nodes if n.lone]


def _layer_problem(experiment: Experiment, planned: Plan, node: Planned, num_classes: int) -> Problem:
    path = f"network.{node.id}" + (f".{node.where}" if node.where else "")
    whole = node.name in LAYERS and LAYERS[node.name].group == "U-Nets"
    for words, fixed in patched(experiment) if whole else ():
        if _mends(planned, plan_of(fixed, num_classes), node.id):
            return Problem(path, node.message, repair=words, fix=fixed)
    if node.value is not None:
        return Problem(path, node.message, repair=f"Use {node.value}", fix=_fix(experiment, path, node.value))
    if node.where.startswith("params."):
        return Problem(path, node.message, repair="Remove this setting", fix=_fix(experiment, path, None))
    for words, fixed in repairs(experiment, planned, node, num_classes):
        if _mends(planned, plan_of(fixed, num_classes), node.id):
            return Problem(path, node.message, repair=words, fix=fixed)
    remove = experiment.remove(node.id) if len(experiment.network) > 1 else None
    return Problem(path, node.message, repair="Remove this layer" if remove else "", fix=remove)


def _mends(planned: Plan, after: Plan, id: str) -> bool:
    """Says whether layer `id` is well in `after`, and so is every layer that had been well, or is new."""
    unwell = {n.id for n in planned.nodes if n.shape is None}  # or not known: what is above them is unwell
    return not after[id].message and not any(n.message and n.id not in unwell for n in after.nodes)


def _head(experiment: Experiment, planned: Plan, num_classes: int, known: bool) -> list[Problem]:
    """Says it when the network does not end in what the task needs."""
    kind = find(experiment.task)
    wanted = kind.head(experiment.data, num_classes)
    last = experiment.network[-1]
    if suits(planned.output, wanted) or (not known and last.name == "linear" and kind.label_kind == "class"):
        return []
    need = kind.wanted(experiment.data, num_classes)
    if known:
        need = need.replace("this task needs", "the data set has") if kind.label_kind == "class" else need
    words = f"The network ends in {show(planned.output or ())} numbers, but {need}"
    path = f"network.{last.id}" + (".params.out_features" if last.name == "linear" else "")
    for repair, fixed in kind.endings(experiment, num_classes) or endings(experiment, planned, (num_classes,)):
        if suits(plan_of(fixed, num_classes).output, wanted):
            return [Problem(path, words, repair=repair, fix=fixed)]
    return [Problem(path, words)]


def suits(shape: tuple[int, ...] | None, wanted: tuple[int | None, ...]) -> bool:
    """Whether an output of this shape is what a task needs; None there stands for any size."""
    if shape is None or len(shape) != len(wanted):
        return False
    return all(there in (None, here) for here, there in zip(shape, wanted, strict=True))


def _gib(count: int) -> str:
    return f"{count / 2**30:,.0f} GiB"


def _memory(experiment: Experiment, planned: Plan) -> list[Problem]:
    """Refuses a network that cannot fit the memory of this machine before anything is allocated."""
    import psutil

    room = int(psutil.virtual_memory().total * 0.85)
    batch = experiment.training.batch_size
    if planned.training_bytes(1) > room:
        largest = max(planned.nodes, key=lambda n: n.parameters)
        return [
            Problem(
                f"network.{largest.id}",
                f"This network of {planned.parameters:,} parameters would need about "
                f"{_gib(planned.training_bytes(1))} to train; this machine has {_gib(room)} to give. "
                f"Its largest layer is {largest.id}.",
            )
        ]
    if planned.training_bytes(batch) > room:
        smaller = batch
        while smaller > 1 and planned.training_bytes(smaller) > room:
            smaller //= 2
        fixed = experiment.replace("training.batch_size", smaller)
        fixed = fixed.replace("training.accumulate", min(256, experiment.training.accumulate * (batch // smaller)))
        return [
            Problem(
                "training.batch_size",
                f"Batches of {batch} would need about {_gib(planned.training_bytes(batch))}; "
                f"this machine has {_gib(room)} to give.",
                repair=f"Use batches of {smaller} and accumulate",
                fix=fixed,
            )
        ]
    return []
