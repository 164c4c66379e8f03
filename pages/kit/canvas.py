"""The network canvas: what the browser is told of a draft's network, and what it tells back.

The browser sends edits (`wiring.Edit`), each with a number; what it has not yet heard an answer to is sent again with
the next. Python applies each once to the newest document, under the draft's lock, and answers with the network as it is
then. So an edit is painted at once, none is lost when Python is busy, and settings that a form writes meanwhile stay.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Any

import streamlit as st

from builder.catalog import LAYOUTS, LayerSpec
from builder.network import Plan, Shape, show
from builder.parts.layers import LAYERS
from builder.spec import INPUT, Experiment, Node, Problem
from pages.kit import findings, layers, wiring
from pages.kit.draft import Draft, DraftMissing
from pages.kit.wiring import Places, Refused
from pages.kit.words import amount, size

__all__ = ["KEY", "draw", "palette", "picture", "take"]

KEY = "network-canvas"
_PER_ITEM = {"maps": "series", "vector": "sequence"}  # what a layer is applied to item by item, see `LayerSpec.takes`


@dataclass
class _Heard:
    """What was heard from one mounted canvas.

    Attributes:
        number: of the last edit that was taken.
        names: (number of an edit, id it gave, id it got because another tab had taken that one), the last few. They
            hold for what the browser tells before it has heard of them; after that the old id is the other tab's layer.
        refused: (number, words) of edits that could not be made, the last few.
    """

    number: int = 0
    names: list[tuple[int, str, str]] = field(default_factory=list)
    refused: list[tuple[int, str]] = field(default_factory=list)


_heard: OrderedDict[tuple[str, str], _Heard] = OrderedDict()
_lock = Lock()


def _heard_of(draft: Draft, mount: str) -> _Heard:
    with _lock:
        found = _heard.pop((draft.id, mount), None) or _Heard()
        _heard[draft.id, mount] = found
        while len(_heard) > 256:
            _heard.popitem(last=False)
        return found


# -- from the browser --------------------------------------------------------------------------------------------------


def take(draft: Draft, told: Any) -> None:
    """Applies what a canvas told: {mount, edits: [[number, edit]], selected, known}; edits taken before are left out.

    `known` is the number of the last edit about which the canvas has heard whether its ids were given anew.
    Besides those of `wiring` it knows {op: "undo"}, {op: "redo"}, {op: "repair", path, repair} and {op: "begin", name}.
    """
    if not isinstance(told, Mapping) or not isinstance(told.get("mount"), str):
        return
    mount = told["mount"][:40]
    heard = _heard_of(draft, mount)
    heard.number = max(heard.number, draft.told(mount))  # a restarted server has it from the draft alone
    known = told.get("known")
    known = known if isinstance(known, int) else 0
    for number, edit in sorted(told.get("edits") or (), key=lambda e: e[0]):
        if number <= heard.number:
            continue
        heard.number = number
        try:
            _step(draft, edit, heard, (mount, number), known)
        except Refused as refusal:
            heard.refused = [*heard.refused[-4:], (number, str(refusal))]
    chosen = wiring.renamed(told.get("selected"), _since(heard, known))
    if isinstance(chosen, str):
        layers.select(draft, chosen)


def _since(heard: _Heard, known: int) -> dict[str, str]:
    """The ids given anew of which the browser had not heard when it told this."""
    return {old: new for number, old, new in heard.names if number > known}


def _step(draft: Draft, told: Any, heard: _Heard, at: tuple[str, int], known: int) -> None:
    """Takes one edit; `at` (mount, number) is written with it, so that it is never taken twice."""
    kind = told.get("op") if isinstance(told, Mapping) else None
    if kind == "undo":
        draft.undo(at)
    elif kind == "redo":
        draft.redo(at)
    elif kind == "repair":
        _repair(draft, str(told.get("path")), str(told.get("repair")), at)
    elif kind == "begin":
        starter = next((s for s in findings.starters(draft.experiment.task) if s.name == told.get("name")), None)
        if starter is not None:
            findings.begin(starter, draft)
    else:

        def change(now: Experiment, layout: dict[str, Any]) -> tuple[Experiment, dict[str, Any]]:
            edit = _settled(now, told, heard, at[1], known)
            new, places = wiring.apply(now, Places.of(layout), edit)
            return new, places.model_dump(mode="json", exclude_defaults=True)

        draft.edit(change, wiring.said(wiring.read(told)), at)


def _settled(now: Experiment, told: Any, heard: _Heard, number: int, known: int) -> Any:
    """The edit with ids that are free in the newest document: another tab may have taken some meanwhile."""
    edit = wiring.read(wiring.renamed(told, _since(heard, known)))
    taken = {n.id for n in now.network}
    clash = [new for new in wiring.added(edit) if new.id in taken]
    if not clash:
        return edit
    fresh = taken | {new.id for new in wiring.added(edit)}
    for new in clash:
        stem = new.name[:32]
        free = next(i for k in range(1, len(fresh) + 2) if (i := f"{stem}_{k}") not in fresh)
        heard.names = [*heard.names[-99:], (number, new.id, free)]
        fresh.add(free)
    return wiring.read(wiring.renamed(told, _since(heard, known)))


def _repair(draft: Draft, path: str, words: str, at: tuple[str, int]) -> None:
    """Presses the repair button of a problem, if it still is one in the newest document."""

    def mended(now: Experiment, layout: dict[str, Any]) -> tuple[Experiment, dict[str, Any]]:
        for problem in findings.look(now).problems:
            if problem.path == path and problem.repair == words and problem.fix is not None:
                return problem.fix, layout
        raise Refused("This is mended already.")

    draft.edit(mended, words, at)


# -- to the browser ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def palette() -> list[dict[str, Any]]:
    """Every layer there is, in the catalog's order: what the palette shows, searches and refuses by."""
    return [
        {
            "name": part.name,
            "title": part.title,
            "group": part.group,
            "help": part.help,
            "finds": part.finds,
            "brief": layers.settings(Node(id="new", name=part.name)),
            "inputs": part.inputs,
            "most": part.most or (1 if part.inputs == 1 else 0),  # 0 = any number
            "takes": _accepted(part),
            "settings": len(part.params),
        }
        for part in LAYERS.values()
    ]


def _accepted(part: LayerSpec) -> list[str]:
    """The layouts that may be wired into a layer, those included to which it is applied item by item."""
    return [*part.takes, *(each for one, each in _PER_ITEM.items() if one in part.takes and each not in part.takes)]


def _sizes(shape: Shape | None) -> str:
    return show(shape).replace(" x ", " × ") if shape else ""


def picture(experiment: Experiment, plan: Plan, problems: tuple[Problem, ...], places: Places) -> dict[str, Any]:
    """Returns the network as the canvas draws it: layers in order with wires, shapes and what is wrong, and places."""
    feeds = wiring.unfold(experiment.network)
    wrong: dict[str, Problem] = {}
    for problem in problems:
        head, _, rest = problem.path.partition(".")
        if head == "network" and rest:
            wrong.setdefault(rest.partition(".")[0], problem)
    nodes = []
    for node, planned in zip(experiment.network, plan.nodes, strict=True):
        entry: dict[str, Any] = {
            "id": node.id,
            "name": node.name,
            "brief": layers.settings(node),
            "params": node.params,
            "feeds": list(feeds[node.id]),
            "shape": _sizes(planned.shape),
            "layout": planned.layout,
            "cost": layers.count(planned.parameters) if planned.parameters else "",
        }
        if planned.taps:
            entry["taps"] = [_sizes(tap) for tap in planned.taps]
        if planned.each:
            entry["each"] = True
        if node.id in wrong:
            problem = wrong[node.id]
            entry["wrong"] = {
                "words": problem.message,
                # A layer that works, at the end of a network that is not through yet, is no fault: it is told calmly.
                "severity": "open" if problem.severity == "error" and planned.shape else problem.severity,
                "path": problem.path,
                "repair": problem.repair if problem.fix is not None else "",
            }
        nodes.append(entry)
    data = experiment.data
    return {
        "nodes": nodes,
        "places": {"moved": {}, "loose": {}, "blocks": [], **places.model_dump(mode="json")},
        "scan": f"{data.colour}, {data.size_px} px",
        "shape": _sizes(plan.input),
        "layout": plan.layout,
    }


def facts(found: findings.Findings) -> list[list[str]]:
    """The network in a few numbers, (label, value) each; sums that stop at a broken layer say so."""
    plan = found.plan
    least = "at least " if any(node.shape is None for node in plan.nodes) else ""
    classes = amount(found.num_classes, "class", "classes") + ("" if found.summary else " assumed")
    return [
        ["Parameters", least + layers.count(plan.parameters)],
        ["Operations", least + layers.operations(plan.flops)],
        ["Activations", least + size(plan.activation_bytes)],
        [f"Output, {classes}", _sizes(plan.output) or "–"],
    ]


def draw(draft: Draft, found: findings.Findings) -> None:
    """Draws the canvas of a draft. Edits were taken by `take` before, as the state's callback."""
    from scanloom_components import network  # found by a running Streamlit only

    experiment = draft.experiment
    told = st.session_state.get(KEY)
    last = getattr(told, "edits", None) or {}
    mount = str(last.get("mount", ""))[:40]
    heard = _heard_of(draft, mount) if mount else _Heard()
    before, now, after = draft.steps
    network(
        key=KEY,
        data={
            "draft": draft.id,
            "graph": picture(experiment, found.plan, found.problems, Places.of(draft.layout)),
            "palette": palette(),
            "layouts": LAYOUTS,
            "facts": facts(found),
            "whole": [
                {
                    "words": p.message,
                    "severity": p.severity,
                    "path": p.path,
                    "repair": p.repair if p.fix is not None else "",
                }
                for p in found.problems
                if p.path == "network" and experiment.network
            ],
            "steps": {"before": before, "now": now, "after": after, "undo": draft.undo_words, "redo": draft.redo_words},
            "mount": mount,
            "heard": heard.number,
            "asked": last.get("asked", 0),
            "names": heard.names,
            "refused": heard.refused,
            "selected": layers.selected(draft) or INPUT,
            "starters": [
                {"name": s.name, "words": amount(len(s.network), "layer")} for s in findings.starters(experiment.task)
            ]
            if not experiment.network
            else [],
        },
        on_edits=lambda: _told(draft),
    )


def _told(draft: Draft) -> None:
    state = st.session_state.get(KEY)
    try:
        take(draft, getattr(state, "edits", None))
    except DraftMissing:
        return  # deleted in another tab: the page says so when it is drawn
