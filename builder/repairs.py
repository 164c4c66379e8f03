"""Edits of a network's structure that may mend a layer: what a repair button does where no setting alone is wrong.

Nothing here judges: `builder.check` plans each candidate, in the order given, and offers the first that does mend.
"""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from math import ceil
from typing import Any

from builder.catalog import UnknownPart
from builder.network import Plan, Planned, Shape, plan_of
from builder.parts.layers import LAYERS
from builder.spec import INPUT, Experiment, Node, feeder

__all__ = ["endings", "repairs"]

Step = tuple[str, Mapping[str, Any]]
"""A layer to put in: its name and the settings that differ from the defaults."""

BRIDGES: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "maps": (
        ("Put global pooling before it", ("global_pool",)),
        ("Flatten before it", ("flatten",)),
        ("Read the picture row by row before it", ("rows_as_sequence",)),
    ),
    "volume": (
        ("Put global pooling before it", ("global_pool",)),
        ("Flatten before it", ("flatten",)),
        ("Take the volume apart into slices before it", ("slices_as_sequence",)),
        ("Take the volume apart into slices and pool each before it", ("slices_as_sequence", "global_pool")),
    ),
    "series": (
        ("Put global pooling of each slice before it", ("global_pool",)),
        ("Flatten each slice before it", ("flatten",)),
        ("Stack the slices into a volume before it", ("slices_as_volume",)),
        ("Lay the slices over one another as channels before it", ("slices_as_channels",)),
    ),
    "sequence": (
        ("Pool over time before it", ("time_pool",)),
        ("Lay the steps out as a picture before it", ("tokens_to_maps",)),
    ),
    "vector": (),
}
"""Ways from one layout to others, the most usual first: the words of the button, and the layers it puts in."""

MOST_WIRES = 12
"""How many earlier layers are tried as what a layer could be fed by."""


def repairs(experiment: Experiment, planned: Plan, node: Planned, num_classes: int) -> Iterator[tuple[str, Experiment]]:
    """Yields (words of the button, the edited document): edits that might mend `node`, the most likely first."""
    if node.name not in LAYERS:
        yield from _names(experiment, node)
        return
    shapes = [planned.along(wire) for wire in node.inputs]
    known = all(shape is not None for shape in shapes)
    if known and len(node.inputs) == 1 and LAYERS[node.name].inputs == 1:
        # A layer for volumes fed by a series is meant to look across slices; else its kin of other dimensions fits.
        first, second = _kin(experiment, node), _bridged(experiment, planned, node)
        yield from (*second, *first) if _layout(planned, node.inputs[0]) == "series" else (*first, *second)
        yield from _adapted(experiment, planned, node)
        yield from _without_feeder(experiment, node)
    if known and len(node.inputs) > 1:
        if LAYERS[node.name].inputs == 1:
            for name in ("add", "concatenate"):
                yield f"Join them by {LAYERS[name].title} before it", _joined(experiment, node, name)
        if LAYERS[node.name].group == "Join":
            yield from _matched(experiment, planned, node, num_classes)
    if node.where == "inputs":
        yield from _rewired(experiment, planned, node)


def endings(experiment: Experiment, planned: Plan, wanted: Shape) -> Iterator[tuple[str, Experiment]]:
    """Yields (words, the edited document): edits after which the network might end in `wanted` class scores."""
    last, output = experiment.network[-1], planned.output or ()
    if last.name == "linear" and planned.nodes[-1].layout == "vector":
        yield f"Use {wanted[0]}", experiment.replace(f"network.{last.id}.params.out_features", wanted[0])
    for node in reversed(experiment.network):
        if node.params.get("output") == "all states":
            edited = experiment.replace(f"network.{node.id}.params.output", "last state")
            yield f"Take only the last state of {node.id}", edited
    if len(output) == 2 and output[-1:] == wanted:
        place = planned.nodes[-1]
        yield (
            "Pool over time before the last layer",
            _put(experiment, place, list(place.inputs), 0, [("time_pool", {})]),
        )
        yield "Pool over time at the end", _at_end(experiment, ("time_pool",))
    yield "Add class scores at the end", _at_end(experiment, ("class_scores",))
    yield "Add global pooling and class scores at the end", _at_end(experiment, ("global_pool", "class_scores"))
    yield "Pool over time and add class scores at the end", _at_end(experiment, ("time_pool", "class_scores"))
    chain = ("global_pool", "time_pool", "class_scores")
    yield "Pool each slice, pool over time, and add class scores at the end", _at_end(experiment, chain)


def _at_end(experiment: Experiment, names: tuple[str, ...]) -> Experiment:
    for name in names:
        experiment = experiment.insert(Node(id=experiment.fresh_id(name), name=name))
    return experiment


def _put(experiment: Experiment, node: Planned, feeds: list[str], source: int, steps: list[Step]) -> Experiment:
    """Returns the document with `steps` right above `node`, between it and what feeds its input number `source`.

    Args:
        feeds: all wires into the node; the one at `source` is set to the last of the new layers.
    """
    for name, params in steps:
        index = experiment._index(node.id)
        above = experiment.network[index - 1].id if index else INPUT
        inputs = () if feeds[source] == above else (feeds[source],)
        extra = Node(id=experiment.fresh_id(name), name=name, params=dict(params), inputs=inputs)
        experiment = experiment.insert(extra, above)
        feeds[source] = extra.id
    index = experiment._index(node.id)
    plain = len(feeds) == 1 and index > 0 and feeds[0] == experiment.network[index - 1].id
    return experiment.replace(f"network.{node.id}.inputs", () if plain else tuple(feeds))


def patched(experiment: Experiment) -> Iterator[tuple[str, Experiment]]:
    """Patches of volumes whose sides divide more often: the slices, the side, or both at the next larger multiple."""
    data = experiment.data
    if not data.blocks:
        return
    for factor in (2, 4, 8, 16, 32):
        slices, side = (-(-size // factor) * factor for size in (data.num_slices, data.size_px))
        deeper = experiment.replace("data.num_slices", slices)
        wider = experiment.replace("data.size_px", side)
        if slices != data.num_slices:
            yield f"Use patches of {slices} slices", deeper
        if side != data.size_px:
            yield f"Use patches of {side} px", wider
        if slices != data.num_slices and side != data.size_px:
            yield f"Use patches of {slices} slices of {side} px", deeper.replace("data.size_px", side)


def _names(experiment: Experiment, node: Planned) -> Iterator[tuple[str, Experiment]]:
    """Layers whose names are like the unknown one; settings that they do not have, or refuse, are left out."""
    for name in get_close_matches(node.name, LAYERS.names, n=3, cutoff=0.5):
        yield f"Use {LAYERS[name].title}", _renamed(experiment, node.id, name)


def _renamed(experiment: Experiment, id: str, name: str) -> Experiment:
    old = experiment.at(f"network.{id}")
    kept = {}
    for setting, value in old.params.items():
        try:
            kept[setting] = LAYERS[name].param(setting).parse(value)
        except (UnknownPart, ValueError):
            continue
    return experiment.replace(f"network.{id}", old.model_copy(update={"name": name, "params": kept}))


def _stem(name: str) -> str:
    return re.sub(r"_?[123]d$", "", name)


def _kin(experiment: Experiment, node: Planned) -> Iterator[tuple[str, Experiment]]:
    """The same layer for another number of dimensions: conv2d for conv3d."""
    for name in LAYERS:
        if name != node.name and _stem(name) == _stem(node.name):
            yield f"Use {LAYERS[name].title} instead", _renamed(experiment, node.id, name)


def _layout(planned: Plan, wire: str) -> str:
    return planned.layout if wire == INPUT else planned[feeder(wire)].layout


def _bridged(experiment: Experiment, planned: Plan, node: Planned) -> Iterator[tuple[str, Experiment]]:
    for words, names in BRIDGES.get(_layout(planned, node.inputs[0]), ()):
        yield words, _put(experiment, node, list(node.inputs), 0, [(name, {}) for name in names])


def _adapted(experiment: Experiment, planned: Plan, node: Planned) -> Iterator[tuple[str, Experiment]]:
    """Three channels for a layer that was made for colour."""
    shape, layout = planned.along(node.inputs[0]), _layout(planned, node.inputs[0])
    if shape is None or layout not in ("maps", "series") or shape[-3] == 3:
        return
    words = f"Bring {shape[-3]} channel{'s' if shape[-3] > 1 else ''} to 3 with a 1x1 convolution before it"
    yield words, _put(experiment, node, list(node.inputs), 0, [_mixed("conv2d", 3)])


def _without_feeder(experiment: Experiment, node: Planned) -> Iterator[tuple[str, Experiment]]:
    """Without the pooling or flattening above it, for a layer that comes too late."""
    wire = node.inputs[0]
    if wire != INPUT and LAYERS[experiment.at(f"network.{feeder(wire)}").name].group in ("Pooling", "Shape"):
        yield f"Remove {feeder(wire)} before it", experiment.remove(feeder(wire))


def _joined(experiment: Experiment, node: Planned, name: str) -> Experiment:
    index = experiment._index(node.id)
    above = experiment.network[index - 1].id if index else INPUT
    extra = Node(id=experiment.fresh_id(name), name=name, inputs=node.inputs)
    return experiment.insert(extra, above).replace(f"network.{node.id}.inputs", ())


def _mixed(name: str, channels: int, stride: int = 1) -> Step:
    """A 1x1 convolution to so many channels."""
    small = {"kernel_size": 1, "padding": 0}
    return name, {"out_channels": channels, **small, **({"stride": stride} if stride > 1 else {})}


def _matched(
    experiment: Experiment, planned: Plan, node: Planned, num_classes: int
) -> Iterator[tuple[str, Experiment]]:
    """All inputs of a join brought to the shape of one of them.

    A sum goes to the most channels and the smallest picture, so that a shortcut follows its main path; a stack goes to
    the largest picture, so that nothing is lost.
    """
    shapes = [planned.along(wire) or () for wire in node.inputs]
    stack = node.name == "concatenate"

    def worth(k: int) -> tuple[int, ...]:
        channels, area = shapes[k][:1], sum(shapes[k][1:])
        return (area, *channels) if stack else (*channels, -area)

    for target in sorted(range(len(shapes)), key=worth, reverse=True):
        edited, feeds, said = experiment, list(node.inputs), []
        for source in range(len(shapes)):
            if shapes[source] == shapes[target] or (stack and shapes[source][1:] == shapes[target][1:]):
                continue
            have, layout = shapes[source], _layout(planned, node.inputs[source])
            wanted = _layout(planned, node.inputs[target])
            if layout != wanted:
                found = _to_layout(edited, node, feeds, source, wanted, num_classes)
                if found is None:
                    break
                edited, have, words = found
                said.append(words)
            steps = _steps(wanted, have, shapes[target], channels=not stack)
            if steps is None:
                break
            if steps:
                edited = _put(edited, node, feeds, source, steps)
                said.append(_words(steps, node.inputs[source]))
        else:
            if said:
                yield said[0] if len(said) == 1 else f"{said[0]} (and {len(said) - 1} more)", edited


def _to_layout(
    experiment: Experiment, node: Planned, feeds: list[str], source: int, wanted: str, num_classes: int
) -> tuple[Experiment, Shape, str] | None:
    """(the document, with that input bridged to the layout `wanted`; its new shape; words); changes `feeds`."""
    layout = _layout(plan_of(experiment, num_classes), feeds[source])
    for words, names in BRIDGES.get(layout, ()):
        tried = list(feeds)
        edited = _put(experiment, node, tried, source, [(name, {}) for name in names])
        planned = plan_of(edited, num_classes)
        shape = planned.along(tried[source])
        if shape is not None and _layout(planned, tried[source]) == wanted:
            wire, feeds[source] = feeds[source], tried[source]
            return edited, shape, words.replace("before it", f"after {wire}")
    return None


def _steps(layout: str, have: Shape, want: Shape, channels: bool) -> list[Step] | None:
    """Layers that bring `have` to `want`; channels or features only where `channels`. None: there is no plain way."""
    if layout == "series":
        return _steps("maps", have[1:], want[1:], channels) if have[0] == want[0] else None
    if layout in ("sequence", "vector"):
        steps: list[Step] = []
        if layout == "sequence" and have[0] != want[0]:
            steps.append(("adaptive_pool_1d", {"size": want[0]}))
        if channels and have[-1] != want[-1]:
            steps.append(("linear", {"out_features": want[-1]}))
        return steps
    convolution, resizing = ("conv3d", "resize_3d") if layout == "volume" else ("conv2d", "resize")
    mixing = channels and have[0] != want[0]
    if have[1:] == want[1:]:
        return [_mixed(convolution, want[0])] if mixing else []
    for stride in range(2, 17) if channels else ():
        if all(ceil(a / stride) == b for a, b in zip(have[1:], want[1:], strict=True)):
            return [_mixed(convolution, want[0], stride)]
    names = ("depth", "height", "width")[-len(want[1:]) :]
    return [(resizing, dict(zip(names, want[1:], strict=True))), *([_mixed(convolution, want[0])] if mixing else [])]


def _words(steps: list[Step], wire: str) -> str:
    names = [name for name, _ in steps]
    if names == ["linear"]:
        return f"Match features with a linear layer after {wire}"
    if len(names) == 1 and names[0].startswith("conv"):
        params = steps[0][1]
        strided = f" of stride {params['stride']}" if "stride" in params else ""
        side = "1x1x1" if names[0] == "conv3d" else "1x1"
        return f"Match channels with a {side} convolution{strided} after {wire}"
    if len(names) == 1:
        return f"Resize to {' x '.join(str(v) for v in steps[0][1].values())} after {wire}"
    return f"Resize and match channels after {wire}"


def _rewired(experiment: Experiment, planned: Plan, node: Planned) -> Iterator[tuple[str, Experiment]]:
    """Fed by something else: a second layer to join with, or layers that exist."""
    place = f"network.{node.id}.inputs"
    index = experiment._index(node.id)
    earlier = [n.id for n in reversed(experiment.network[:index])][:MOST_WIRES]
    feeds = tuple(wire for wire in node.inputs if feeder(wire) == INPUT or feeder(wire) in earlier)
    if LAYERS[node.name].group == "Decoders":
        yield from _tapped(experiment, planned, node)
    if LAYERS[node.name].inputs > 1:
        for other in [*earlier, INPUT]:
            if feeds and other not in feeds:
                yield f"Join it with {other}", experiment.replace(place, (*feeds, other))
        for one in earlier[:1]:
            for other in [*earlier[1:], INPUT]:
                yield f"Join {one} and {other}", experiment.replace(place, (one, other))
        return
    yield "Feed it from the layer above", experiment.replace(place, ())
    for other in [*feeds, *earlier[1:], INPUT]:
        yield f"Feed it from {other}", experiment.replace(place, (other,))


def _tapped(experiment: Experiment, planned: Plan, node: Planned) -> Iterator[tuple[str, Experiment]]:
    """Maps for a decoder, shallow to deep: its own in another order, the stages of a backbone, or other layers."""
    place = f"network.{node.id}.inputs"
    index = experiment._index(node.id)
    most = LAYERS[node.name].most

    def chosen(wires: list[str]) -> tuple[str, ...]:
        """One map of each size, the largest first; the second and the last where only two are taken."""
        sizes = {wire: shape[-2:] for wire in wires if (shape := planned.along(wire)) and len(shape) >= 3}
        largest = sorted(sizes, key=lambda wire: sizes[wire], reverse=True)
        kept = [w for k, w in enumerate(largest) if not k or sizes[w] != sizes[largest[k - 1]]]
        return tuple(kept if not most or len(kept) <= most else (kept[1 : 2 if len(kept) > 2 else 1] + kept[-1:]))

    if len(own := chosen(list(dict.fromkeys(node.inputs)))) > 1 and own != node.inputs:
        yield "Order its maps shallow to deep", experiment.replace(place, own)
    for above in reversed(experiment.network[:index]):
        if above.name == "timm_backbone":
            taps = planned[above.id].taps
            if taps:
                wires = chosen([f"{above.id}:{k}" for k in range(1, len(taps) + 1)])
                yield f"Feed it the stages of {above.id}", experiment.replace(place, wires)
            else:
                opened = experiment.replace(f"network.{above.id}.params.output", "stages")
                yield f"Let {above.id} give its stages and feed it those", _fed_by_stages(opened, node, above.id)
    maps = chosen([n.id for n in reversed(experiment.network[:index]) if planned[n.id].layout in ("maps", "series")])
    if len(maps) > 1:
        yield "Feed it the last map of each size", experiment.replace(place, maps)


def _fed_by_stages(experiment: Experiment, node: Planned, id: str) -> Experiment:
    planned = plan_of(experiment, 2)
    again = next(_tapped(experiment, planned, planned[node.id]), None) if planned[id].taps else None
    return again[1] if again else experiment
