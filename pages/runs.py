"""How is it going? The list of runs; curves that grow while they learn; what happened; the test side; taking away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import streamlit as st

from builder.catalog import Part
from builder.execute import LocalExecutor, home
from builder.parts.images import AUGMENTATIONS, PREPARE
from builder.parts.layers import LAYERS
from builder.parts.training import OPTIMIZERS, SCHEDULES, TRAINING
from builder.runs import Run, RunFollower, RunStore, RunView, StoreError, markers
from builder.spec import Choice, Experiment, Node, SpecError
from pages.kit import curves, go, style, takeaway, trust
from pages.kit.pairs import band
from pages.kit.words import ago, amount, duration, path_words, plain, value_words

_CSS = """<style>
.st-key-run-meant button{box-shadow:inset 4px 0 0 #4a78ef}
.st-key-run-list .stButton>button{justify-content:flex-start;text-align:left;padding:.35rem .6rem;min-height:3.3rem}
.st-key-run-list .stButton>button>div,.st-key-run-list .stButton>button>div>span,
.st-key-run-list [data-testid=stMarkdownContainer]{width:100%}
.st-key-run-list .stButton p{display:grid;grid-template-columns:minmax(0,1fr) max-content;gap:.1rem .5rem;
 align-items:center;white-space:normal}
.st-key-run-list .stButton p strong{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;font-weight:600}
.st-key-run-list .stButton p em{grid-column:1/-1;font-style:normal;font-size:.82rem;opacity:.72}
</style>"""
_LOOK_S = 1.0
_LISTED = 12
_LOGGED = 40
_MOST_SHOWN = 6
_DEVICES = {"cpu": "Processor", "cuda": "GPU"}
_ETA_STEPS = 5  # a rate from fewer steps than this is a guess


# -- which runs -------------------------------------------------------------------------------------------------------


def shown_ids(runs: Sequence[Run]) -> list[str]:
    """The runs in the URL that exist, the newest where it names none; and the URL made to say so."""
    known = {run.id for run in runs}
    asked = st.query_params.get("run", "").split(",")
    found = list(dict.fromkeys(id for id in asked if id in known))[:_MOST_SHOWN]
    if not found:
        found = [runs[0].id]
    if st.query_params.get("run") != ",".join(found):
        st.query_params["run"] = ",".join(found)
    return found


def view_of(run: Run) -> RunView:
    """The run's state; each session reads only what was added since it last looked."""
    followers: dict[str, RunFollower] = st.session_state.setdefault("followers", {})
    if run.id not in followers:
        followers[run.id] = RunFollower(run)
    return followers[run.id].refresh()


def experiment_of(run: Run) -> Experiment | None:
    """The run's document; None where it cannot be read."""
    try:
        return run.experiment
    except (SpecError, OSError):
        return None


def name_of(run: Run) -> str:
    """What the run is called."""
    experiment = experiment_of(run)
    return experiment.name if experiment else "Unreadable experiment"


def begun(run: Run) -> float:
    """When the run was made, in seconds since 1970."""
    return (run.folder / "experiment.json").stat().st_mtime


def only(id: str) -> None:
    """Shows this run alone."""
    st.query_params["run"] = id


def pick(id: str, key: str) -> None:
    """Lays this run over those that are shown, or takes it away."""
    asked = [i for i in st.query_params.get("run", "").split(",") if i and i != id]
    if st.session_state[key]:
        asked = [*asked, id][-_MOST_SHOWN:]
    if asked:
        st.query_params["run"] = ",".join(asked)


def run_list(runs: Sequence[Run], views: dict[str, RunView], shown: Sequence[str]) -> None:
    """One card a run: a press shows it alone, a tick lays it over the others."""
    waiting = [m.id for m in markers(home()) if m.id in views and views[m.id].status == "queued"]
    with st.container(key="run-list", gap="xsmall"):
        for run in runs:
            view = views[run.id]
            facts = [curves.best_words(view), ago(begun(run))]
            if run.id in waiting:
                facts.insert(0, f"number {waiting.index(run.id) + 1} in the queue")
            elif view.active and view.epochs:
                facts.insert(0, f"epoch {view.epoch} of {view.epochs}")
            words = plain(" · ".join(filter(None, facts)))
            meant = len(shown) > 1 and run.id == shown[0]  # buttons and sections mean this one
            marked = "run-meant" if meant else None
            with st.container(key=marked, horizontal=True, vertical_alignment="center", gap="xsmall", wrap=False):
                key = f"pick-{run.id}"
                if st.session_state.get(key) != (run.id in shown):
                    st.session_state[key] = run.id in shown
                st.checkbox(
                    f"Show {plain(name_of(run))} in the charts",
                    value=run.id in shown,
                    key=key,
                    label_visibility="collapsed",
                    on_change=pick,
                    args=(run.id, key),
                )
                st.button(
                    f"**{plain(name_of(run))}** {style.badge(view.status)} *{words}*",
                    key=f"only-{run.id}",
                    width="stretch",
                    on_click=only,
                    args=(run.id,),
                )


# -- what can be done -------------------------------------------------------------------------------------------------


def attempt(act: Callable[[], object]) -> bool:
    """Does something with the store; what cannot be done is kept as a sentence for the next draw."""
    try:
        act()
        LocalExecutor(home()).ensure()
    except StoreError as error:
        st.session_state["runs-refused"] = str(error)
        return False
    return True


@st.dialog("Stop this training?", icon=":material/stop_circle:")
def confirm_stop(run: Run, view: RunView) -> None:
    """Asks before a run is stopped."""
    kept = f"The best network so far (epoch {view.best['epoch']}) is kept. " if view.best else ""
    st.write(f"{kept}You can resume it later exactly where it stopped.")
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button("Keep training"):
            st.rerun()
        if st.button("Stop now", type="primary", key="really-stop", on_click=run.stop):
            st.rerun()


@st.dialog("Delete this run?", icon=":material/delete:")
def confirm_delete(run: Run) -> None:
    """Asks before a run is deleted."""
    st.write(f"**{plain(name_of(run))}**: its network, its curves and its evaluation go for good. The scans stay.")
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button("Keep it"):
            st.rerun()
        if st.button("Delete", type="primary", key="really-delete", on_click=delete, args=(run.id,)):
            st.rerun()


def delete(id: str) -> None:
    """Removes a run for good; one that is still at work is refused in words."""
    try:
        RunStore(home()).delete(id)
    except StoreError as error:
        st.session_state["runs-refused"] = str(error)


def again(run: Run) -> None:
    """Starts the same experiment anew."""
    experiment = experiment_of(run)
    if experiment is None:
        return
    made: list[Run] = []
    if attempt(lambda: made.append(RunStore(home()).create(experiment))):
        st.query_params["run"] = made[0].id


def resume(run: Run) -> None:
    """Puts a run that ended early back into the queue."""
    attempt(run.resume)


def actions(run: Run, view: RunView) -> None:
    """The buttons of the run that is looked at: one main thing, the rest in a menu."""
    experiment = experiment_of(run)
    with st.popover("More", icon=":material/more_horiz:"):
        if st.button(
            "Open as an experiment", key="clone", icon=":material/edit:", width="stretch", disabled=not experiment
        ):
            assert experiment is not None
            go.begin(experiment, words=f"opened from run {run.id}")
            go.to("network")
        st.button(
            "Run again",
            key="again",
            icon=":material/replay:",
            width="stretch",
            disabled=not experiment,
            help="The same settings and the same seed, from the beginning.",
            on_click=again,
            args=(run,),
        )
        if st.button(
            "Delete",
            key="delete-run",
            icon=":material/delete:",
            width="stretch",
            disabled=view.active,
            help="Stop it first." if view.active else None,
        ):
            confirm_delete(run)
    if view.active:
        words = "Stopping ..." if view.stopping else "Stop"
        if st.button(words, key="stop-run", icon=":material/stop:", disabled=view.stopping):
            confirm_stop(run, view)
    usable = view.best is not None
    if view.resumable:
        aside = usable and view.status == "stopped"
        st.button(
            "Resume",
            key="resume-run",
            type="secondary" if aside else "primary",
            icon=":material/play_arrow:",
            help="Goes on exactly where the last state was saved.",
            on_click=resume,
            args=(run,),
        )
        if not aside:
            return
    if usable and st.button("Test a scan", key="to-test", type="primary", icon=":material/biotech:"):
        go.to("test", run=run.id)


# -- the live part ----------------------------------------------------------------------------------------------------


def standing(views: dict[str, RunView]) -> tuple[tuple[str, str, bool, bool], ...]:
    """What the buttons of the page depend on; when it changes the whole page is drawn anew."""
    return tuple((id, view.status, view.stopping, view.best is not None) for id, view in views.items())


def live(runs: Sequence[Run], shown: Sequence[str], states: tuple[tuple[str, str, bool, bool], ...]) -> None:
    """Everything that moves: the list, the state of the run, the curves. Runs again by itself while a run is active."""
    views = {run.id: view_of(run) for run in runs}
    if st.query_params.get("run") != ",".join(shown):
        st.rerun()  # another run was picked in the list
    if standing(views) != states:
        st.rerun()
    by_id = {run.id: run for run in runs}
    left, right = st.columns([1.15, 2.9], gap="medium")
    with left:
        everything = st.session_state.get("all-runs", False)
        listed = list(runs) if everything else list(runs)[:_LISTED]
        listed += [by_id[id] for id in shown if by_id[id] not in listed]
        run_list(listed, views, shown)
        if len(runs) > _LISTED:
            st.toggle(f"Show all {len(runs)}", key="all-runs")
    with right:  # three boxes always: what grows in one never moves the charts, which would cost their zoom
        with st.container(key="run-state"):
            state(by_id[shown[0]], views[shown[0]])
        with st.container(key="run-curves"):
            picture([by_id[id] for id in shown], [views[id] for id in shown])
        with st.container(key="run-log"):
            happened(views[shown[0]], labels_of([by_id[id] for id in shown])[0] if len(shown) > 1 else "")


def state(run: Run, view: RunView) -> None:
    """How the run stands: words, progress, time left, the latest numbers."""
    where = f"epoch {view.epoch} of {view.epochs}" if view.epochs else ""
    if view.active:
        share = min(1.0, view.step / view.total) if view.total else 0.0
        told = [f"**{view.status.capitalize()}**", where, left_words(view), view.note]
        if view.stopping:
            told = ["**Stopping**", "the present state is being saved"]
        st.progress(share, text=" · ".join(filter(None, [told[0], *(plain(w) for w in told[1:])])))
        if view.reason:
            st.caption(plain(view.reason))
    elif view.status == "done":
        st.success(plain(view.reason) or "Done.", icon=":material/check_circle:")
    elif view.status == "stopped":
        st.info(f"Stopped at {where}. {plain(view.reason)}", icon=":material/stop_circle:")
    else:
        words = {"lost": "Lost.", "failed": "Failed."}.get(view.status, view.status)
        kept = " What was saved is kept: press Resume to go on from there." if view.resumable else ""
        st.error(f"**{words}** {plain(view.reason)}{kept}", icon=":material/error:")
    for warning in view.warnings[-3:]:
        st.warning(plain(warning), icon=":material/warning:")
    numbers(view)


def numbers(view: RunView) -> None:
    """The latest numbers of the run; once it has ended, those of the epoch whose network is kept."""
    best = view.best or {}
    rows = []
    monitor = str(best.get("metric") or "") if best.get("value") is not None else ""
    if monitor:
        rows.append((f"Best {curves.name_words(monitor)}, epoch {best['epoch']}", f"{best['value']:.3f}"))
    for name in ("val/accuracy", "val/loss", "train/loss"):
        value, when = view.metrics.get(name), " now" if view.active else ""
        if not view.active and monitor:
            value, when = curves.best_value(view, name), f", epoch {best['epoch']}"
            if name == monitor:
                continue
        if value is not None:
            rows.append((f"{_title(name)}{when}", f"{value:.3f}"))
    if view.attempt:
        rows.append((f"{_DEVICES.get(view.device, view.device or 'Computing')} time", duration(view.seconds)))
        band(rows)


def _title(name: str) -> str:
    words = curves.name_words(name)
    return words[:1].upper() + words[1:]


def left_words(view: RunView) -> str:
    """How long it may still take, from the pace so far; "" where nothing can be said yet."""
    if view.status != "running" or not view.total or view.step < _ETA_STEPS:
        return ""
    seconds = view.seconds / view.step * (view.total - view.step)
    if seconds < 90:
        return f"about {duration(max(5, 5 * round(seconds / 5)))} left"
    return f"about {duration(60 * round(seconds / 60))} left".replace(" 00 s", "")


def picture(runs: Sequence[Run], views: Sequence[RunView]) -> None:
    """The curves: losses on the left, a score or a measure of the steps on the right."""
    if not any(view.curves for view in views):
        st.caption("The curves begin with the first step.")
        return
    labels = labels_of(runs)
    offered = curves.axes(views)
    names = curves.scores(views)
    one, two, three, four = st.columns([1.85, 1, 1, 1.25], gap="small", vertical_alignment="bottom")
    with one:
        axis = st.segmented_control("Along", offered, default="epoch", required=True, key="curve-axis")
    with two:
        weight = st.slider("Smoothing of steps", 0.0, 0.98, 0.6, 0.02, key="curve-smoothing")
    with three:
        log = st.toggle("Log. loss", key="curve-log", help="A logarithmic axis for the loss.")
    score = names[0] if names else ""
    if score.startswith("val/"):  # before the first epoch ends there is nothing to choose
        monitor = str((views[0].best or {}).get("metric") or "")
        first = names.index(monitor) if monitor in names else 0
        with four:
            score = st.selectbox("Beside it", names, index=first, key="curve-score", format_func=curves.name_words)
    axis = axis if axis in offered else "epoch"
    at = curves.best_at(views[0], axis) if len(views) == 1 else None  # marks of several runs would cover each other
    marks = [] if at is None else [(at, "best")]
    losses = ["val/loss", "train/loss"]
    steps = [] if len(views) > 1 else curves.lines(views, labels, ["step/loss"], axis=axis, smoothing=weight, first=2)
    one, two = st.columns(2, gap="small")
    with one:
        chart("curves-loss", [*steps, *curves.lines(views, labels, losses, axis=axis)], marks, axis, "Loss", log=log)
    if score:
        made = curves.lines(views, labels, [score], axis=axis, smoothing=weight)
        with two:
            chart("curves-score", made, marks, axis, _title(score))


def labels_of(runs: Sequence[Run]) -> list[str]:
    """Names for the legend; a number behind those that occur twice."""
    names = [name_of(run) for run in runs]
    return [f"{n} ({names[:k].count(n) + 1})" if names.count(n) > 1 else n for k, n in enumerate(names)]


def chart(
    key: str,
    made: Sequence[curves.Line],
    marks: Sequence[tuple[float, str]],
    axis: str,
    title: str,
    *,
    log: bool = False,
) -> None:
    """One live chart: it keeps its zoom while points come in."""
    import scanloom_components  # only where it is drawn: it registers itself with a running Streamlit

    scanloom_components.curves(
        [scanloom_components.Series(**vars(line)) for line in made],
        key=key,
        height=310,
        log=log,
        x_title={"step": "Step", "epoch": "Epoch", "minutes": "Minutes of computing"}[axis],
        y_title=title,
        marks=[scanloom_components.Mark(x, words) for x, words in marks],
        view=axis,
        summary=f"{title} of {amount(len(made), 'line')}",
    )


def happened(view: RunView, whose: str = "") -> None:
    """The run's log in words, the newest line first. `whose`: the run's name, where several are shown."""
    if not view.log:
        return
    with st.expander(f"What happened · {plain(whose)}" if whose else "What happened", icon=":material/list:"):
        lines = [f"`{time.strftime('%H:%M:%S', time.localtime(at))}` {plain(words)}" for at, words in view.log]
        st.markdown("\n\n".join(reversed(lines[-_LOGGED:])))
        if len(lines) > _LOGGED:
            st.caption(f"And {len(lines) - _LOGGED} earlier lines.")


# -- after the training -----------------------------------------------------------------------------------------------


def compared(runs: Sequence[Run]) -> None:
    """What differs between the first two runs that are shown."""
    first, second = experiment_of(runs[0]), experiment_of(runs[1])
    if first is None or second is None:
        return
    one, two = labels_of(runs)[:2]
    with style.card("What differs", key="differs"):
        found = differences(first, second)
        if not found:
            st.caption("Nothing: the two experiments are the same.")
            return
        st.dataframe(
            [{"Choice": words, one: _short(a), f"{two} ": _short(b)} for words, (a, b) in found.items()],
            hide_index=True,
            key="differs-table",
        )


def differences(first: Experiment, second: Experiment) -> dict[str, tuple[Any, Any]]:
    """Returns what differs in the words of the catalogs; a layer or augmentation that only one has is one row."""
    found: dict[str, tuple[Any, Any]] = {}
    for path, values in first.diff(second).items():
        section, *rest = path.split(".")
        if path == "network":
            found["Order of the layers"] = values
        elif section == "network":
            _of_parts(found, LAYERS, [_named(e.network, rest[0]) for e in (first, second)], rest[1:], values, "Layer")
        elif rest and rest[0] == "augment":
            both = [_named(e.training.augment, rest[1]) for e in (first, second)]
            _of_parts(found, AUGMENTATIONS, both, rest[2:], values, "Augmentation")
        elif rest and rest[0] in ("optimizer", "schedule"):
            offered: Mapping[str, Part] = OPTIMIZERS if rest[0] == "optimizer" else SCHEDULES
            both = [getattr(e.training, rest[0]) for e in (first, second)]
            _of_parts(found, offered, both, rest[1:], values, rest[0].capitalize())
        else:
            part = {"data": PREPARE, "training": TRAINING}.get(section)
            labels = {p.name: p.label for p in part.params} if part else {}
            found[labels.get(rest[-1], path_words(path)) if rest else path_words(path)] = values
    return found


def _named(choices: Iterable[Choice], name: str) -> Choice | None:
    return next((c for c in choices if name == (c.id if isinstance(c, Node) else c.name)), None)


def _of_parts(
    found: dict[str, tuple[Any, Any]],
    offered: Mapping[str, Part],
    both: Sequence[Choice | None],
    rest: Sequence[str],
    values: tuple[Any, Any],
    kind: str,
) -> None:
    """Adds the row about a part or one of its settings; a setting that is not written down has its default."""
    titles = [c and (offered[c.name].title if c.name in offered else c.name) for c in both]
    one = next(c for c in both if c is not None)
    called = one.id if isinstance(one, Node) else kind if kind in ("Optimizer", "Schedule") else titles[both.index(one)]
    if None in both or rest == ["name"]:
        what = f"{kind} {one.id}" if isinstance(one, Node) else kind if called == kind else f"{kind}: {called}"
        found[what] = (titles[0], titles[1])
        return
    setting = rest[-1]
    told, label = list(values), "fed by" if setting == "inputs" else setting.replace("_", " ")
    for place, choice in enumerate(both):
        for domain in offered[choice.name].params if choice and choice.name in offered else ():
            if domain.name == setting:
                label = domain.label.lower()
                told[place] = domain.default if told[place] is None else told[place]
    found[f"{called}: {label}"] = (told[0], told[1])


def _short(value: Any) -> str:
    return "–" if value is None else value_words(value)


def take_away(run: Run, whose: str = "") -> None:
    """The network as code and weights that need no ScanLoom. `whose`: words behind the title."""
    experiment = experiment_of(run)
    if experiment is None:
        return
    with style.card(f"Take it away{whose}", key="take-away"):
        st.caption(
            "A zip with the network, its weights, the preparation of the scans, and a proof that it answers as the app "
            "does. It needs no ScanLoom."
        )
        takeaway.formats(f"export-{run.id}", lambda: {"run": run.id}, experiment)


def nothing_yet() -> None:
    """No runs: what to do."""
    style.heading("How is it going?", "Trainings, while they run and afterwards.")
    with style.empty(
        "show_chart", "No runs yet", "A run begins on the Training page. Or try the demo: it learns in a minute."
    ):
        if st.button("Go to Training", key="to-training", type="primary", icon=":material/model_training:"):
            go.to("training")
        if st.button("Try the demo", key="to-home", icon=":material/play_arrow:"):
            go.to("home")


def page(runs: Sequence[Run]) -> None:
    """The page."""
    shown = shown_ids(runs)
    by_id = {run.id: run for run in runs}
    focus = by_id[shown[0]]
    views = {run.id: view_of(run) for run in runs}
    view = views[focus.id]
    experiment = experiment_of(focus)
    task = experiment.task.replace("_", " ") if experiment else ""
    with style.heading(plain(name_of(focus)), f"{plain(task)} · begun {ago(begun(focus))} · run {focus.id}"):
        actions(focus, view)
    refused = st.session_state.pop("runs-refused", "")
    if refused:
        st.error(plain(refused), icon=":material/error:")
    every = _LOOK_S if any(v.active for v in views.values()) else None
    st.fragment(run_every=every, key="live-runs")(live)(runs, shown, standing(views))
    whose = ""
    if len(shown) > 1:
        whose = f" · {plain(labels_of([by_id[id] for id in shown])[0])}"
        compared([by_id[id] for id in shown])
    if view.best is not None and not view.active:
        trust.test_side(focus, whose)
        take_away(focus, whose)


st.html(_CSS)
known = RunStore(home()).runs()
if known:
    page(known)
else:
    nothing_yet()
