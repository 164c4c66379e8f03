"""The text of model.py and train.py of an export: every layer and every step of the recipe spelled out in plain
PyTorch.

What has its own source in the project (blocks, augmentation) comes as that source; nothing is described twice.
"""

from __future__ import annotations

import inspect
import json
import keyword
import sys
import textwrap
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from builder import network, schedule, task
from builder.catalog import LayerSpec
from builder.lessons import lesson
from builder.parts.images import AUGMENTATIONS
from builder.parts.layers import LAYERS
from builder.parts.training import AVERAGES, OPTIMIZERS, SCHEDULES
from builder.shares import shares, still
from builder.spec import INPUT, Choice, Experiment

TEMPLATES = Path(__file__).parent / "templates"


def attributes(experiment: Experiment) -> dict[str, str]:
    """{node id: name in the exported class}: the id itself, with a "_" where Python or torch use the word already."""
    from torch import nn

    taken = {"x", "self", "nn", "torch"}
    names: dict[str, str] = {}
    for node in experiment.network:
        name = node.id
        while keyword.iskeyword(name) or hasattr(nn.Module(), name) or name in taken:
            name += "_"
        names[node.id] = name
        taken.add(name)
    return names


@cache
def _source(part: type) -> str:
    """The text of a class; to find it in its file takes milliseconds."""
    return inspect.getsource(part)


def model_source(experiment: Experiment, num_classes: int) -> str:
    """The text of model.py: the class `Model`, every layer with its settings and the shape that comes out of it."""
    from builder.blocks.network import PerItem

    shape = network.input_shape(experiment)
    planned = network.plan_of(experiment, num_classes)
    names = attributes(experiment)
    chain = [INPUT, *(n.id for n in experiment.network)]
    straight = all(
        below.inputs == (above,) and not below.taps for above, below in zip(chain, planned.nodes, strict=False)
    )
    blocks: dict[str, str] = {}
    made, used = [], []
    for node, place in zip(experiment.network, planned.nodes, strict=True):
        shapes = [s for s in map(planned.along, place.inputs) if s is not None]
        assert place.shape is not None and len(shapes) == len(place.inputs), f"{node.id} has no shape"
        spec = LAYERS[node.name]
        assert isinstance(spec, LayerSpec)
        module, _, kind = spec.target.partition(":")
        if module.startswith("builder.blocks."):
            for part in (*getattr(spec.load(), "PARTS", ()), spec.load()):
                for own in reversed(part.__mro__):
                    if own.__module__.startswith("builder.blocks."):
                        blocks[own.__name__] = _source(own)
        items = [s[1:] for s in shapes] if place.each else shapes
        given = network.arguments(node, items, num_classes, trained=True, scan=shape)
        usual = inspect.signature(spec.load()).parameters
        said = {key: value for key, value in given.items() if key not in usual or usual[key].default != value}
        words = ", ".join(f"{key}={_spelled(experiment, key, value)}" for key, value in said.items())
        call = f"{'' if kind in blocks else 'nn.'}{kind}({words})"
        if place.each:
            blocks["PerItem"] = _source(PerItem)
            call = f"PerItem({call})"
        made.append(
            f"        self.{names[node.id]} = {call}  # {' and '.join(map(network.show, place.taps or (place.shape,)))}"
        )
        feeds = ["x" if straight else _variable(planned, names, wire) for wire in place.inputs]
        result = "x" if straight else names[node.id]
        used.append(f"        {result} = self.{names[node.id]}({', '.join(feeds)})")
    last = "x" if straight else _variable(planned, names, experiment.network[-1].id)
    tiled = experiment.data.fit == "patches" and not experiment.data.blocks
    lines = [
        f'"""The network {quoted(experiment.name)}, exported by ScanLoom.',
        "",
        f"Input: (B, {', '.join(map(str, shape))}) float32, normalized (see predict.py).",
        f"Output: (B, {', '.join(map(str, planned.output or ()))}), as its last layer says. "
        f"{planned.parameters:,} learned numbers.",
        "Not for clinical use.",
        '"""',
        "",
        "import torch",
        "from torch import nn",
        "",
        "",
        *(f"{source.rstrip()}\n\n" for source in blocks.values()),
        "class Model(nn.Module):",
        *(["    # side: of the tiles; the same weights serve all of them"] if tiled else []),
        f"    def __init__(self{f', side={experiment.data.size_px}' if tiled else ''}):",
        "        super().__init__()",
        *made,
        "",
        "    def forward(self, x: torch.Tensor) -> torch.Tensor:",
        *used,
        f"        return {last}",
        "",
    ]
    return "\n".join(line.rstrip(" ") for line in lines)


def _spelled(experiment: Experiment, key: str, value: Any) -> str:
    """A setting as Python text; what is the scan's size is that of the tiles, where whole scans go through in tiles."""
    if key == "scan_size" and experiment.data.fit == "patches" and not experiment.data.blocks:
        return "(side, side)"
    return repr(value)


def _variable(planned: network.Plan, names: dict[str, str], wire: str) -> str:
    """What a wire is called in the exported forward: "backbone_1:2" -> "backbone_1[1]"."""
    if wire == INPUT:
        return "x"
    id, _, tap = wire.partition(":")
    return f"{names[id]}[{int(tap or 0) - 1}]" if planned[id].taps else names[id]


def predict_source(network: str = "", *imports: str, says: str = "classes", activated: str = "scores") -> str:
    """The text of predict.py.

    Args:
        says, activated: as `task.Task` has them.
        network: name of a template whose `load` and `probabilities` take the place of PyTorch's ("" = PyTorch's own).
        imports: the packages of that template's own.
    """
    text = (TEMPLATES / "predict.py.txt").read_text(encoding="utf-8")
    spoken = (TEMPLATES / f"told_{says}.py.txt").read_text(encoding="utf-8")
    text = text.replace("TOLD\n", f"{spoken}\n\n").replace("(ACTIVATED)", activated)
    if not network:
        return text
    reading, mark, rest = text.partition("# -- the network --")
    _, command, last = rest.partition("# -- the command --")
    assert mark and command, "predict.py.txt has lost its headings"
    standard = [f"import {name}" for name in sorted({"argparse", "json", "sys", *imports} & sys.stdlib_module_names)]
    foreign = [f"import {name}\n" for name in imports if name not in sys.stdlib_module_names]
    reading = reading.replace("import argparse\nimport json\nimport sys", "\n".join(standard))
    reading = reading.replace("import torch\n", "".join(foreign))
    reading = reading.replace("from safetensors.torch import load_file\n\nimport likeness\n", "")
    reading = reading.replace("Needs torch, safetensors, numpy and pillow;", "Needs what requirements.txt names;")
    own = (TEMPLATES / network).read_text(encoding="utf-8").replace("(ACTIVATED)", activated)
    return f"{reading}{mark}{rest.partition(chr(10))[0]}\n\n\n{own}\n\n{command}{last}"


START = "start.safetensors"
"""Beside train.py: the stored weights that a training begins with."""
BEGINS = {
    "random": "It begins with random weights, as the run did.",
    "stored": f"It begins with the stored weights in {START}, as the run did.",
    "gone": "The run began with stored weights that were gone when it was exported: this begins with random ones.",
}


def train_source(
    experiment: Experiment,
    multi_label: bool,
    begins: str = "random",
    says: str = "classes",
    begun: Collection[str] = (),
) -> str:
    """The text of train.py: the chosen optimizer, schedule, loss, penalties and augmentation in one plain loop.

    Args:
        begins: one of `BEGINS`. says: which of `lessons` is taught, as `task.Task` has it. begun: ids of the layers
            that begin with stored weights.
    """
    from builder import batches

    training, taught = experiment.training, lesson(says, experiment, multi_label)
    part = OPTIMIZERS[training.optimizer.name]
    chosen = part.arguments({**part.defaults, **training.optimizer.params})
    words = "".join(f", {key}={value!r}" for key, value in chosen.items())
    formulas, rate, after = _schedule(training.schedule, training.average)
    package, _, kind = part.target.partition(":")
    foreign = [] if package.startswith("torch") else [f"import {package}"]
    held = _held(experiment)
    hold = ["hold(model)"] if held else []
    extras, averaged, told, judged = _average(training.average, hold, taught.plain)
    extras = [*held, *extras]
    order = "torch.randperm(len(images), generator=random)"
    if training.balance == "sampler":
        extras = [*extras, _balanced(says, multi_label)]
        order = "torch.from_numpy(balanced(SEED, epoch, kinds_of(targets)))"
    drawn, stored = _first_weights(experiment), _START if begins == "stored" else []
    mine = ["from augment import Augment"] if training.augment else []
    mine += ["from initial import begin"] if drawn else []
    return Template((TEMPLATES / "train.py.txt").read_text(encoding="utf-8")).substitute(
        folder=textwrap.fill(taught.folder, 118, break_on_hyphens=False),
        imports="\n".join(sorted((*foreign, *taught.imports, *mine), key=str.lower)),
        reading=taught.reading,
        lesson=taught.text,
        settled=repr(taught.settled),
        kept=repr(("model.py", "predict.py", "likeness.py", *taught.kept)),
        begins=BEGINS[begins],
        tensors="load_file, save_file" if begins == "stored" else "save_file",
        start=_lines([*drawn, *stored, *hold], 4),
        hold=_lines(hold, 8),
        batch_size=training.batch_size,
        accumulate=training.accumulate,
        patience=training.patience,
        clip_norm=training.clip_norm,
        clip_value=training.clip_value,
        min_delta=training.min_delta,
        copied="import copy\n" if averaged else "",
        extras="".join(f"\n{source.strip()}\n\n" for source in extras),
        groups=_indented(_groups(experiment, begun, float(chosen["lr"])), 4),
        order=order,
        averaged=_lines(averaged, 4),
        after_step=textwrap.indent(told, " " * 8),
        judged=judged,
        l1=training.l1,
        seed=training.seed,
        epochs=training.epochs,
        monitor=training.monitor,
        merit=_merit(experiment),
        optimizer=f"{package}.{kind}(groups{words})",
        updates=inspect.getsource(batches.updates),
        formulas="\n\n".join(formulas),
        schedule=_indented(rate, 4),
        after_epoch=_lines(after, 8),
        normalize=_indented(_normalize(experiment), 4),
        augment=_augment(experiment),
    )


def _first_weights(experiment: Experiment) -> list[str]:
    """The lines that draw the first weights by the chosen rule, as `network.assemble` does; [] for the usual one."""
    rule = experiment.training.init
    if rule == "usual":
        return []
    names = attributes(experiment)
    drawn = [names[n.id] for n in experiment.network if LAYERS[n.name].group not in ("Backbones", "Heads")]
    if not drawn:
        return []
    return [f"for layer in ({', '.join(f'model.{name}' for name in drawn)},):", f"    begin(layer, {rule!r})"]


def _merit(experiment: Experiment) -> str:
    """What makes an epoch better than another, as Python text; where the score cannot be computed, the loss."""
    monitor = experiment.training.monitor
    sign = "" if task.find(experiment.task).metrics.get(monitor, True) else "-"
    merit = f'{sign}figures["{monitor}"]'
    return merit if monitor == "loss" else f'{merit} if "{monitor}" in figures else -figures["loss"]'


def _normalize(experiment: Experiment) -> list[str]:
    """The lines that find `mean` and `std`, shaped to be taken off a batch."""
    data = experiment.data
    ones = "None, None, None" if data.layout == "volume" else "None, None"
    if data.normalize != "dataset":
        return [f'mean, std = (torch.tensor(SETTINGS[name]).float()[:, {ones}] for name in ("mean", "std"))']
    if data.fit == "patches":
        return [
            f"values = torch.cat([image.flatten(1) for image in images[:: {data.num_patches}]], 1)",
            f"mean, std = (part[:, {ones}] for part in (values.mean(1), values.std(1, correction=0).clamp(min=1e-6)))",
        ]
    axes = {"maps": (0, 2, 3), "series": (0, 1, 3, 4), "volume": (0, 2, 3, 4)}[data.layout]  # all but the channels
    return [
        f"mean = images.mean({axes})[:, {ones}]",
        f"std = images.std({axes}, correction=0)[:, {ones}].clamp(min=1e-6)",
    ]


def _augment(experiment: Experiment) -> str:
    """The line of `AUGMENT`, "" without any."""
    chosen, layout = experiment.training.augment, experiment.data.layout
    if not chosen:
        return ""
    lines = [f"    SimpleNamespace(name={c.name!r}, params={_augmentation(c.name, c.params)!r})," for c in chosen]
    border = experiment.training.border
    last = f"], layout={layout!r}" if layout != "maps" else "]"
    last += ")" if border == "black" else f", border={border!r})"
    return "\n".join(["AUGMENT = Augment([", *lines, last, ""])


_START = [
    f'stored = load_file(Path(__file__).resolve().parent / "{START}")',
    "assert not model.load_state_dict(stored, strict=False).unexpected_keys  # the layers after it begin at random",
]


def _augmentation(name: str, params: dict[str, Any]) -> dict[str, Any]:
    return {**AUGMENTATIONS[name].defaults, **params}


def _schedule(choice: Choice, average: Choice) -> tuple[list[str], list[str], list[str]]:
    """(source of what the schedule needs, the lines of `rate`, lines after each epoch)."""
    chosen = {**SCHEDULES[choice.name].defaults, **choice.params}
    warmup, lines, sources = chosen.pop("warmup_epochs", 0), [], []
    words = ", ".join(f"{key}={value!r}" for key, value in chosen.items())
    if average.name == "swa":
        rate = {**AVERAGES["swa"].defaults, **average.params}["rate"]
        lines += ["if step >= swa_begins(steps // steps_per_epoch) * steps_per_epoch:", f"    return {rate!r}"]
    if warmup:
        sources.append(inspect.getsource(schedule.warm))
        lines += [f"warmup = {warmup} * steps_per_epoch", "if step < warmup:", "    return warm(step, warmup)"]
    if choice.name == "plateau":
        sources += [inspect.getsource(schedule.Plateau), f"PLATEAU = Plateau({words})\n"]
        return sources, [*lines, "return PLATEAU.level"], ['PLATEAU.after(figures["loss"])']
    formula = schedule.FORMULAS[choice.name]
    counted = ("step - warmup", "max(1, steps - warmup)") if warmup else ("step", "steps")
    given = ", ".join((*counted, "steps_per_epoch", *([words] if words else [])))
    source = inspect.getsource(formula)
    sources += [inspect.getsource(schedule.half_cosine)] if "half_cosine" in source else []
    return [*sources, source], [*lines, f"return {formula.__name__}({given})"], []


def _groups(experiment: Experiment, begun: Collection[str], rate: float) -> list[str]:
    """The lines that make `groups` of the optimizer, and `lasso`: (weights, factor) of all that L1 counts."""
    l2, otherwise = experiment.training.l2, shares(experiment, begun)
    if not otherwise:
        return [
            "decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]",
            "plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]",
            f'groups = [{{"params": decayed, "weight_decay": {l2}}}, {{"params": plain, "weight_decay": 0.0}}]',
            "lasso = [(p, 1.0) for p in decayed]",
        ]
    names = attributes(experiment)
    return [
        "# {layer: what its learning rate, L2 and L1 penalty are, times those of the rest}",
        "otherwise = {",
        *(f"    {names[id]!r}: ({share.lr!r}, {share.l2!r}, {share.l1!r})," for id, share in otherwise.items()),
        "}",
        "groups, lasso = [], []",
        "for name, p in model.named_parameters():",
        '    faster, l2, l1 = otherwise.get(name.partition(".")[0], (1.0, 1.0, 1.0))',
        "    if p.requires_grad:",
        f"        decay = {l2} * l2 if p.ndim > 1 else 0.0",
        f'        groups.append({{"params": [p], "lr": {rate!r} * faster, "weight_decay": decay}})',
        "        lasso += [(p, l1)] if p.ndim > 1 and l1 else []",
    ]


def _held(experiment: Experiment) -> list[str]:
    """The source of what keeps the layers with a learning rate of 0 as they are; [] without any."""
    names = attributes(experiment)
    layers = ", ".join(f"model.{names[id]}" for id in still(experiment))
    text = Template((TEMPLATES / "hold.py.txt").read_text(encoding="utf-8"))
    return [text.substitute(layers=layers)] if layers else []


def _average(choice: Choice, hold: list[str], plain: Sequence[str]) -> tuple[list[str], list[str], str, str]:
    """(source of what the average of the weights needs, lines before the first epoch, lines after a step (4 deep in
    the loop over steps), the network that is judged). `hold`: lines that follow each start of training. `plain`: as
    `lessons.Lesson` has it."""
    chosen = {**AVERAGES[choice.name].defaults, **choice.params}
    if choice.name == "none":
        return [], [], "", "model"
    text = Template((TEMPLATES / f"{choice.name}.py.txt").read_text(encoding="utf-8"))
    source = text.substitute(chosen, hold=_lines(hold, 4), plain=_indented(list(plain), 16))
    before = ["average, count = copy.deepcopy(model), 0"]
    if choice.name == "ema":
        told = "    follow(average, model, count)\n    count += 1\n"
        return [source], before, told, "average"
    told = (
        "if epoch > swa_begins(arguments.epochs):\n    follow(average, model, count)\n    count += 1\n"
        "    remeasure(average, images, targets, mean, std)\n"
    )
    return [source], before, told, "(average if count else model)"


_KINDS = {
    "classes": "targets.numpy()",
    "several": "_rarest([np.flatnonzero(row) for row in targets.numpy()])",
    "boxes": "_rarest([labels.numpy() for _, labels, _ in targets])",
    "type_and_outline": "class_or_outline(np.array([row[0] for row in targets]), [row[1] for row in targets])",
}


def _balanced(says: str, multi_label: bool) -> str:
    """The source of the order in which every class comes equally often."""
    from builder import batches, targets

    own: dict[str, list[Any]] = {
        "classes": [],
        "boxes": [targets._rarest],
        "type_and_outline": [targets.class_or_outline],
    }
    several = multi_label and says == "classes"
    kinds = [targets._rarest] if several else own[says]
    parts = [inspect.getsource(made).strip() for made in (batches.permutation, batches.balanced, *kinds)]
    return "\n\n\n".join(
        [
            f"Any, Sequence, UNKNOWN, _BALANCED = object, list, {targets.UNKNOWN!r}, {batches._BALANCED!r}",
            *parts,
            f'def kinds_of(targets):\n    """(N,) what each scan counts as."""\n'
            f"    return {_KINDS['several' if several else says]}",
        ]
    )


def _indented(lines: list[str], by: int) -> str:
    return textwrap.indent("\n".join(lines), " " * by)


def _lines(lines: list[str], by: int) -> str:
    """Whole lines, indented; "" without any."""
    return "".join(f"{line}\n" for line in _indented(lines, by).splitlines())


def quoted(text: str) -> str:
    """A name typed by a person as a string that cannot end the docstring it stands in."""
    return json.dumps(text, ensure_ascii=True).replace("\\", "/").strip()
