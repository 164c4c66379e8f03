"""How the layers of a run are doing: what ails it in words, what may help, and a map of the layers over time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import streamlit as st

from builder.cures import Cure, cures
from builder.diagnosis import Finding, diagnose
from builder.execute import home
from builder.parts.layers import LAYERS
from builder.probes import MEASURES, Probes, thinned
from builder.runs import Run, RunStore, RunView
from builder.spec import Experiment
from pages.kit import address, findings, go, style
from pages.kit.run_actions import attempt
from pages.kit.run_compare import differences
from pages.kit.run_list import experiment_of
from pages.kit.words import amount, plain, value_words

__all__ = ["health"]

_COLUMNS = 120  # more looks than these side by side no eye tells apart
_CURVE_POINTS = 300
_MOST_CURES = 3  # of one finding, the rest is folded away
_MOST_CHANGES = 6  # of one cure, told one by one
_MOST_DECADES = 12  # of a colour scale: what is fainter counts as nothing
_NO_CLASSES = 0
_FEW = 4  # looks from which a clean bill means something


def health(run: Run, view: RunView) -> None:
    """The card of one run; it moves with the run while that learns."""
    experiment = experiment_of(run)
    if experiment is None or not (view.step or view.active or view.broke):
        return
    with style.card("Inside the layers", key="health"):
        if not view.probes.steps and view.broke is None:
            st.caption(
                "The layers are looked at from the first step on."
                if view.active
                else "Nobody looked into the layers of this run: it is from before ScanLoom did. Run it again to see."
            )
            return
        num_classes = _classes(experiment)
        found = diagnose(view, experiment, num_classes)
        offered: list[Experiment] = []
        for finding in found:
            _told(run, experiment, finding, num_classes, offered)
        if not found and len(view.probes.steps) < _FEW:
            st.caption("After a few more looks something can be said about the layers.")
        elif not found:
            st.markdown(
                ":green[:material/check_circle: Nothing unusual] in the gradients, the steps of the weights and what "
                f"comes out of the layers, up to step {view.probes.steps[-1]:,}."
            )
        if view.probes.steps:
            _map(view.probes, experiment)


def _classes(experiment: Experiment) -> int:
    """Number of classes of the run's data set; 0 where that is gone."""
    found = findings.look(experiment)
    return found.num_classes if found.summary else _NO_CLASSES


# -- what ails it -----------------------------------------------------------------------------------------------------


def _told(run: Run, experiment: Experiment, finding: Finding, num_classes: int, offered: list[Experiment]) -> None:
    """One finding with its evidence, and the ways to help that are not `offered` above; adds them there."""
    colour, icon = ("orange", "warning") if finding.pressing else ("blue", "info")
    with st.container(key=f"finding-{finding.kind}", gap="small"):
        st.markdown(f":{colour}[:material/{icon}: **{finding.title}.**] {plain(finding.words)}")
        first = finding.pressing and not offered  # one main thing
        known = _ways(run, experiment, finding, num_classes)
        ways = [cure for cure in known if cure.experiment not in offered]
        offered += [cure.experiment for cure in ways]
        if known and known[0] not in ways:
            st.caption("What helps above helps here, too.")
        for number, cure in enumerate(ways[:_MOST_CURES]):
            _offered(run, experiment, finding, cure, number, first and number == 0)
        if len(ways) > _MOST_CURES:
            with st.expander(f"{amount(len(ways) - _MOST_CURES, 'more way', 'more ways')} that may help"):
                for number, cure in enumerate(ways[_MOST_CURES:], _MOST_CURES):
                    _offered(run, experiment, finding, cure, number, False)


def _ways(run: Run, experiment: Experiment, finding: Finding, num_classes: int) -> list[Cure]:
    """The cures of a finding, made once for as long as it concerns the same layers."""
    kept: dict[tuple[object, ...], list[Cure]] = st.session_state.setdefault("cures", {})
    key = (run.id, finding.kind, finding.layers, num_classes)
    if key not in kept:
        while len(kept) > 50:
            kept.pop(next(iter(kept)))
        kept[key] = cures(finding, experiment, num_classes or 2)
    return kept[key]


def _offered(run: Run, experiment: Experiment, finding: Finding, cure: Cure, number: int, main: bool) -> None:
    """One cure: what it does, what it changes, and the two ways to take it."""
    key = f"{finding.kind}-{number}"
    with st.container(horizontal=True, vertical_alignment="center", gap="small", wrap=True, key=f"cure-{key}"):
        with st.container(width="stretch", gap=None):
            st.markdown(f"**{plain(cure.words)}**", help=f"Changes: {plain(_changes(experiment, cure.experiment))}")
            st.caption(plain(cure.why))
        if st.button(
            "Open",
            key=f"open-{key}",
            icon=":material/edit:",
            help="Opens the changed experiment as a draft of its own; nothing is started.",
        ):
            go.begin(_named(cure), words=f"from run {run.id}: {cure.words}")
            go.to("network" if cure.experiment.network != experiment.network else "training")
        st.button(
            "Start",
            key=f"start-{key}",
            icon=":material/play_arrow:",
            type="primary" if main else "secondary",
            help="Starts it as a run of its own and lays its curves over these.",
            on_click=_begun,
            args=(run.id, cure),
        )


def _named(cure: Cure) -> Experiment:
    name = f"{cure.experiment.name}: {cure.words}"
    return cure.experiment.replace("name", name if len(name) <= 100 else f"{name[:97]}...")


def _begun(ill: str, cure: Cure) -> None:
    """Starts the cured experiment and shows both runs, the new one first."""
    made: list[Run] = []
    if attempt(lambda: made.append(RunStore(home()).create(_named(cure)))):
        address.put("run", f"{made[0].id},{ill}")


def _changes(before: Experiment, after: Experiment) -> str:
    """What a cure changes, in the words of the catalogs."""
    rows = [
        f"{what} {_short(there)}" if here is None else f"{what} {_short(here)} → {_short(there)}"
        for what, (here, there) in differences(before, after).items()
    ]
    more = len(rows) - _MOST_CHANGES
    return "; ".join(rows[:_MOST_CHANGES]) + (f"; and {amount(more, 'more change')}" if more > 0 else "") + "."


def _short(value: object) -> str:
    return "nothing" if value is None else value_words(value)


# -- the map ----------------------------------------------------------------------------------------------------------


def _map(probes: Probes, experiment: Experiment) -> None:
    """Layers times looks in colours, for a measure to be chosen; one layer more closely."""
    import scanloom_components  # only where it is drawn: it registers itself with a running Streamlit

    offered = [name for name in MEASURES if probes.known(name)]
    one, two = st.columns([1.6, 1], gap="small", vertical_alignment="bottom")
    with one:
        name = st.selectbox(
            "Measure", offered, key="health-measure", format_func=lambda m: MEASURES[m].title, help=_helps(offered)
        )
    if name is None:
        return
    measure, rows = MEASURES[name], probes.known(name)
    with two:
        if st.session_state.get("health-layer") not in rows:
            st.session_state.pop("health-layer", None)
        picked = st.selectbox("Layer", rows, key="health-layer", index=None, placeholder="Press a row to pick one")
    at = thinned(probes.steps, _COLUMNS)
    values = {id: [probes.row(id, name)[k] for k in at] for id in rows}
    scanloom_components.heatmap(
        values,
        [f"{probes.steps[k]:,}" for k in at],
        key=f"health-map-{name}",
        ends=_ends(list(values.values()), log=measure.log, share=measure.share),
        log=measure.log,
        share=measure.share,
        picked=picked or "",
        x_title="Step",
        summary=f"{measure.title} of {amount(len(rows), 'layer')} at {amount(len(at), 'step')}",
        on_pick=_pick,
    )
    if picked:
        _closely(probes, experiment, picked, name)


def _pick() -> None:
    """A row of the map was pressed."""
    for name in MEASURES:
        told = st.session_state.get(f"health-map-{name}")
        if told and told.get("row") and name == st.session_state.get("health-measure"):
            st.session_state["health-layer"] = told["row"]


def _helps(names: Sequence[str]) -> str:
    return "\n\n".join(f"**{MEASURES[name].title}**: {MEASURES[name].help}" for name in names)


def _ends(rows: Sequence[Sequence[float]], *, log: bool, share: bool) -> tuple[float, float]:
    """What the first and the last colour stand for; on a logarithmic scale whole powers of ten."""
    if share:
        return 0.0, 1.0
    known = [v for row in rows for v in row if math.isfinite(v) and (v > 0 or not log)]
    if not known:
        return (1e-3, 1.0) if log else (0.0, 1.0)
    low, high = min(known), max(known)
    if not log:
        return (low, high) if high > low else (low - 0.5, low + 0.5)
    top = math.ceil(math.log10(high))
    bottom = max(math.floor(math.log10(low)), top - _MOST_DECADES)
    return 10.0 ** min(bottom, top - 1), 10.0**top


def _closely(probes: Probes, experiment: Experiment, id: str, name: str) -> None:
    """One layer: its newest numbers, and the chosen measure as a curve."""
    import scanloom_components

    node = next((n for n in experiment.network if n.id == id), None)
    title = LAYERS[node.name].title if node and node.name in LAYERS else ""
    told = [
        f"{MEASURES[m].title.lower()} {_number(probes.last(id, m)[0], MEASURES[m].share)}"
        for m in MEASURES
        if probes.last(id, m)
    ]
    st.caption(f"**{plain(id)}** ({plain(title)}), at the latest look: {plain(', '.join(told))}.")
    at = thinned(probes.steps, _CURVE_POINTS)
    row = probes.row(id, name)
    line = scanloom_components.Series(name, MEASURES[name].title, [probes.steps[k] for k in at], [row[k] for k in at])
    scanloom_components.curves(
        [line],
        key="health-curve",
        height=230,
        log=MEASURES[name].log,
        x_title="Step",
        y_title=MEASURES[name].title,
        view=f"{id}-{name}",
        summary=f"{MEASURES[name].title} of {id}",
    )


def _number(value: float, share: bool) -> str:
    if share:
        return f"{value:.0%}"
    return "0" if value == 0 else f"{value:.3g}"
