"""Layers in words, and the edits of the network page as functions of a draft: what a button's callback does."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import streamlit as st

from builder.catalog import Flag, LayerSpec
from builder.network import Plan, show, wires
from builder.parts.layers import LAYERS
from builder.spec import INPUT, UNWIRED, Data, Experiment, Node
from pages.kit.draft import Draft, spared
from pages.kit.forms import tells_anew, wrote
from pages.kit.words import plain

__all__ = [
    "above",
    "add",
    "caption",
    "count",
    "delete",
    "duplicate",
    "feeds",
    "move",
    "opened",
    "operations",
    "parted",
    "rewire",
    "scan_caption",
    "sees",
    "select",
    "selected",
    "settings",
    "taps",
    "title",
]


def count(number: float) -> str:
    """Returns a large number short: 950 -> "950", 15300 -> "15.3 k", 4.2e9 -> "4.2 G"."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            scaled = number / (1e3 if unit == "k" else limit)
            return f"{scaled:.3g} {unit}" if scaled < 100 else f"{scaled:.0f} {unit}"
    return f"{number:,.0f}"


def operations(flops: float) -> str:
    """Returns floating point operations short: 13.2 MFLOP."""
    short = count(flops)
    return f"{short}FLOP" if " " in short else f"{short} FLOP"


def sees(field: Sequence[int], scan: Sequence[int]) -> str:
    """Returns a receptive field in words. `field`: as planned; `scan`: the scan's own sizes along the same axes."""
    if not field:
        return "unknown"
    if all(a >= b for a, b in zip(field, scan, strict=True)):
        return "the whole scan"
    if not any(field):
        return "nothing of the scan"
    if len(field) == 1:
        return f"{field[0]} of {scan[0]}"
    *items, height, width = field
    picture = "whole slices" if items and (height, width) == tuple(scan[-2:]) else f"{height} x {width} px"
    return f"{picture} of {items[0]} slice{'s' if items[0] != 1 else ''}" if items else picture


def settings(node: Node) -> str:
    """Returns a layer's settings in a few words: its first one, and those that differ from the default."""
    if node.name not in LAYERS:
        return ""
    said = []
    for number, domain in enumerate(LAYERS[node.name].params):
        value: Any = node.params.get(domain.name, domain.default)
        if isinstance(domain, Flag):
            if value != domain.default:
                said.append(f"{'with' if value else 'no'} {domain.label.lower()}")
        elif number == 0 or value != domain.default:
            amount = f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
            said.append(f"{domain.label.lower()} {amount}")
    return ", ".join(said)


def title(node: Node) -> str:
    """Returns what the layer is called in the palette, its name in the document where the catalog has none such."""
    return LAYERS[node.name].title if node.name in LAYERS else node.name


def feeds(experiment: Experiment, id: str) -> tuple[str, ...]:
    """Returns the ids that feed a layer; "input" is the scan."""
    ids = [n.id for n in experiment.network]
    return wires(experiment.network)[ids.index(id)]


def above(experiment: Experiment, id: str) -> list[str]:
    """Returns what may feed a layer: the scan and every layer above it, in order."""
    ids = [n.id for n in experiment.network]
    return [INPUT, *ids[: ids.index(id)]]


def taps(plan: Plan, id: str) -> list[str]:
    """Returns the wires from the taps of a layer, shallow to deep ("backbone_1:2"); [] for one with a single output."""
    found = next((n for n in plan.nodes if n.id == id), None)
    return [f"{id}:{k}" for k in range(1, len(found.taps) + 1)] if found else []


def _key(draft: Draft) -> str:
    return f"layer-of:{draft.id}"


def selected(draft: Draft) -> str:
    """Returns the id of the layer that is open; "input" (the scan) or "" where the network is empty.

    Before anything is opened it is the last one above the class scores: a new layer is meant to go before the answer.
    """
    return _selected(draft, draft.experiment)


def _selected(draft: Draft, now: Experiment) -> str:
    ids = [n.id for n in now.network]
    kept = st.session_state.get(_key(draft))
    if kept == INPUT or kept in ids:
        return str(kept)
    if len(ids) > 1 and now.network[-1].name == "class_scores":
        return ids[-2]
    return ids[-1] if ids else ""


def select(draft: Draft, id: str) -> None:
    """Opens a layer."""
    st.session_state[_key(draft)] = id


def opened(draft: Draft, key: str) -> None:
    """Opens the layer that was chosen in the list with this key."""
    chosen = st.session_state[key]
    if chosen:
        select(draft, chosen)


@spared
def add(draft: Draft, name: str) -> None:
    """Puts a new layer below the one that is open (at the end of an empty network) and opens it."""
    spec = LAYERS[name]
    id = ""

    def change(now: Experiment) -> Experiment:
        nonlocal id
        at, id = _selected(draft, now), now.fresh_id(name)
        node = Node(id=id, name=name)
        index = [n.id for n in now.network].index(at) if at not in ("", INPUT) else -1
        fed = feeds(now, at)[0] if index >= 1 else UNWIRED
        if isinstance(spec, LayerSpec) and spec.inputs > 1 and fed != UNWIRED:
            node = node.model_copy(update={"inputs": (at, fed)})  # joined with what fed the layer above
        return now.insert(node, at or None)

    draft.apply(change, f"add {spec.title.lower()}")
    select(draft, id)


@spared
def duplicate(draft: Draft, id: str) -> None:
    """Puts a copy of a layer below it and opens the copy."""
    new = draft.apply(lambda now: now.duplicate(id), f"duplicate {id}")
    select(draft, new.network[[n.id for n in new.network].index(id) + 1].id)


@spared
def move(draft: Draft, id: str, by: int) -> None:
    """Moves a layer `by` places down (negative: up)."""
    draft.apply(lambda now: now.move(id, by), f"move {id} {'down' if by > 0 else 'up'}")
    select(draft, id)


@spared
def delete(draft: Draft, id: str) -> None:
    """Removes a layer; what it fed is fed by what fed it. Opens the layer above."""
    ids: list[str] = []

    def change(now: Experiment) -> Experiment:
        ids.extend(n.id for n in now.network)
        return now.remove(id)

    draft.apply(change, f"delete {id}")
    index = ids.index(id)
    rest = [i for i in ids if i != id]
    select(draft, rest[max(0, index - 1)] if rest else INPUT)


@spared
def rewire(draft: Draft, id: str, key: str) -> None:
    """Takes the choice of inputs from a widget; the layer above alone is written as no wires at all.

    Does nothing where a browser only tells once more what it had chosen, for a layer that is gone, and for an emptied
    field: every layer is fed by something.
    """
    now, place = draft.experiment, f"wires:{id}"
    chosen = st.session_state[key]
    if not tells_anew(key) or not chosen or all(n.id != id for n in now.network):
        return
    wanted = tuple(chosen) if isinstance(chosen, list) else (chosen,)
    if wanted == (above(now, id)[-1],):
        wanted = ()
    if wanted != now.at(f"network.{id}.inputs"):
        draft.replace(f"network.{id}.inputs", wanted, f"feed {id} from {', '.join(wanted) or 'the layer above'}")
        wrote(place, chosen)


def caption(node: Node, shape: tuple[int, ...] | None, parameters: int, feeds_it: tuple[str, ...]) -> str:
    """Returns what a layer's card says beside its name, as markdown: settings, shape that comes out, parameters."""
    joined = f" from {', '.join('the scan' if f == INPUT else f for f in feeds_it)}" if feeds_it else ""
    words = plain(f"{settings(node)}{joined}") or "–"
    return f"*{words}* `{show(shape) if shape else 'no shape'}` :gray[{count(parameters) if parameters else '–'}]"


def scan_caption(data: Data, shape: tuple[int, ...]) -> str:
    """Returns what the scan's own card says."""
    colour = "grey" if data.channels == 1 else "red, green, blue"
    slices = "" if data.layout == "maps" else f"{data.num_slices} slices of "
    slices = f"patches of {slices}" if data.fit == "patches" else slices
    return f"*{colour}, {slices}{data.size_px} x {data.size_px} px* `{show(shape)}` :gray[–]"


def scan_axes(data: Data) -> str:
    """Returns what the sizes of a prepared scan count, in their order."""
    return {
        "maps": "channels x height x width",
        "series": "slices x channels x height x width",
        "volume": "channels x slices x height x width",
    }[data.layout]


def parted(ids: Sequence[str], said: Container[str]) -> list[list[str]]:
    """Returns `ids` in groups that end at each one that is in `said`, and at the last."""
    groups: list[list[str]] = [[]]
    for id in ids:
        if groups[-1] and groups[-1][-1] in said:
            groups.append([])
        groups[-1].append(id)
    return groups
