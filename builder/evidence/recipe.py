"""How a network was taught, in words: the document read aloud."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from builder import network, task
from builder.catalog import Part
from builder.parts.images import AUGMENTATIONS, DEGRADATIONS, PREPARE
from builder.parts.layers import LAYERS
from builder.parts.training import AVERAGES, LOSSES, OPTIMIZERS, SCHEDULES, TRAINING
from builder.spec import Choice, Experiment

Row = tuple[str, str]
_APART = ("optimizer", "schedule", "loss", "average", "augment", "groups")


def said(experiment: Experiment) -> dict[str, list[Row]]:
    """{title: [(what, value in words)]}: preparation, augmentation and training of a document.

    Settings that mean nothing for it (patches where none are cut) are left out.
    """
    data, training = experiment.data, experiment.training
    unused = {"dataset", "degrade", "exclude"}
    if data.layout == "maps":
        unused |= {"num_slices", "slice_choice"}
    if data.fit != "patches":
        unused |= {"num_patches"}
    if not data.blocks:
        unused |= {"outlined_share", "pixel_mm", "slice_mm"}
    prepared = [
        (domain.label, _value(getattr(data, domain.name), domain))
        for domain in PREPARE.params
        if hasattr(data, domain.name) and domain.name not in unused
    ]
    if data.degrade.name in DEGRADATIONS and data.degrade.name != "none":
        prepared.append(("Made poorer for learning", _part(data.degrade, DEGRADATIONS[data.degrade.name])))
    if data.exclude:
        prepared.append(("Training cases left out by a person", str(len(data.exclude))))
    varied = [(_title(choice, AUGMENTATIONS), _settings(choice, AUGMENTATIONS)) for choice in training.augment]
    taught = [
        ("Loss", _named(training.loss, LOSSES)),
        ("Optimizer", _named(training.optimizer, OPTIMIZERS)),
        ("Learning rate over time", _named(training.schedule, SCHEDULES)),
        ("Average of the weights", _named(training.average, AVERAGES)),
    ]
    taught += [
        (domain.label, _value(getattr(training, domain.name), domain))
        for domain in TRAINING.params
        if hasattr(training, domain.name) and domain.name not in _APART
    ]
    taught += [
        (
            f"Layers “{group.name}”",
            f"learning rate times {group.lr_factor:g}, L2 times {group.l2_factor:g}, L1 times {group.l1_factor:g} "
            f"({', '.join(group.nodes)})",
        )
        for group in training.groups
    ]
    if experiment.weights:
        taught.append(("Begins with stored weights", experiment.weights))
    return {"Preparation": prepared, "Augmentation": varied or [("None", "")], "Training": taught}


def layers(experiment: Experiment, num_classes: int) -> dict[str, Any]:
    """The network as a table: {input, parameters, flops, rows: [{id, layer, settings, shape, parameters, from}]}."""
    plan = network.plan_of(experiment, num_classes)
    rows = []
    for node, planned in zip(experiment.network, plan.nodes, strict=True):
        title = LAYERS[node.name].title if node.name in LAYERS else node.name
        settings = _settings(node, LAYERS) if node.name in LAYERS else ""
        rows.append(
            {
                "id": node.id,
                "layer": title,
                "settings": settings,
                "shape": network.show(planned.shape) if planned.shape else planned.message,
                "parameters": planned.parameters,
                "from": ", ".join(planned.inputs),
            }
        )
    return {"input": network.show(plan.input), "parameters": plan.parameters, "flops": plan.flops, "rows": rows}


def beginning(experiment: Experiment) -> str:
    """What the weights were before training, in words."""
    if experiment.weights:
        return f"Stored weights with the SHA-256 {experiment.weights[:12]}..."
    found = [
        f"{node.params.get('model', LAYERS[node.name].title)}: {node.params['weights']}"
        for node in experiment.network
        if node.params.get("weights") not in (None, "", "none")
    ]
    return "Pretrained: " + "; ".join(found) if found else "Random, of the seed"


def headline(experiment: Experiment) -> str:
    """The figure that people look at first, by its name in a report."""
    return task.find(experiment.task).headline


def _title(choice: Choice, catalog: Any) -> str:
    return catalog[choice.name].title if choice.name in catalog else choice.name


def _named(choice: Choice, catalog: Any) -> str:
    settings = _settings(choice, catalog)
    return _title(choice, catalog) + (f": {settings}" if settings else "")


def _part(choice: Choice, part: Part) -> str:
    return f"{part.title}: {_listed(part.params, choice.params)}"


def _settings(choice: Choice, catalog: Any) -> str:
    if choice.name not in catalog:
        return ", ".join(f"{name} {value}" for name, value in choice.params.items())
    return _listed(catalog[choice.name].params, choice.params)


def _listed(domains: Sequence[Any], params: dict[str, Any]) -> str:
    said = [(d.label.lower(), _value(params.get(d.name, d.default), d)) for d in domains]
    return ", ".join(f"{name} {value}" for name, value in said if value)


def _value(value: Any, domain: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        unit = getattr(domain, "unit", "")
        return f"{value:g}" + (f" {unit}" if unit else "")
    return str(value)
