"""The runs of this data folder: which are looked at, what each is called, and the list to choose from."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from builder import notes, turns
from builder.branch import tree
from builder.execute import home
from builder.runs import Run, RunFollower, RunStore, RunView, StoreError, markers
from builder.spec import Experiment, SpecError
from pages.kit import address, curves, style
from pages.kit.run_groups import trial_number
from pages.kit.words import ago, plain

__all__ = [
    "MOST_SHOWN",
    "begun",
    "dress",
    "experiment_of",
    "labels_of",
    "name_of",
    "only",
    "run_list",
    "shown_ids",
    "view_of",
]

_CSS = """<style>
[class*=st-key-limb-][class*=-meant] button{box-shadow:inset 4px 0 0 #4a78ef}
[class*=st-key-run-list] .stButton>button{justify-content:flex-start;text-align:left;padding:.35rem .6rem;
 min-height:3.3rem}
[class*=st-key-run-list] .stButton>button>div,[class*=st-key-run-list] .stButton>button>div>span,
[class*=st-key-run-list] [data-testid=stMarkdownContainer]{width:100%}
[class*=st-key-run-list] .stButton p{display:grid;grid-template-columns:minmax(0,1fr) max-content;gap:.1rem .5rem;
 align-items:center;white-space:normal}
[class*=st-key-run-list] .stButton p strong{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;font-weight:600}
[class*=st-key-limb-1-]{padding-left:1.1rem}[class*=st-key-limb-2-]{padding-left:2.2rem}
[class*=st-key-limb-3-]{padding-left:3.3rem}
[class*=st-key-limb-]:not([class*=st-key-limb-0-]) .stButton>button{border-left:3px solid #8b7bd8}
[class*=st-key-run-list] .stButton p em{grid-column:1/-1;font-style:normal;font-size:.82rem;opacity:.72}
</style>"""
MOST_SHOWN = 6
_DEEPEST = 3  # steps to the right that a narrow list can show


def dress() -> None:
    """The style sheet of the list, once a page."""
    st.html(_CSS)


def shown_ids(runs: Sequence[Run]) -> list[str]:
    """The runs in the URL that exist, the newest where it names none; and the URL made to say so."""
    known = {run.id for run in runs}
    asked = address.get("run").split(",")
    found = list(dict.fromkeys(id for id in asked if id in known))[:MOST_SHOWN]
    if not found:
        found = [runs[0].id]
    if address.get("run") != ",".join(found):
        address.put("run", ",".join(found))
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
    experiment, number = experiment_of(run), trial_number(run)
    name = experiment.name if experiment else "Unreadable experiment"
    return name if number is None else f"{name}, trial {number}"


def labels_of(runs: Sequence[Run]) -> list[str]:
    """Names for the legend; a number behind those that occur twice."""
    names = [name_of(run) for run in runs]
    return [f"{n} ({names[:k].count(n) + 1})" if names.count(n) > 1 else n for k, n in enumerate(names)]


def begun(run: Run) -> float:
    """When the run was made, in seconds since 1970."""
    return (run.folder / "experiment.json").stat().st_mtime


def only(id: str) -> None:
    """Shows this run alone."""
    address.put("run", id)


def pick(id: str, key: str) -> None:
    """Lays this run over those that are shown, or takes it away."""
    asked = [i for i in address.get("run").split(",") if i and i != id]
    if st.session_state[key]:
        asked = [*asked, id][-MOST_SHOWN:]
    if asked:
        address.put("run", ",".join(asked))


def move(id: str, by: int) -> None:
    """Lets a waiting run begin sooner or later; one that has begun meanwhile stays where it is."""
    turns.move(home(), id, by)


def turn(run: Run, place: int, of: int) -> None:
    """Moves a waiting run up or down, or takes it out of the queue."""
    with st.popover("", icon=":material/swap_vert:", help="Its turn"):
        for words, icon, by, off in (
            ("Sooner", "arrow_upward", -1, place == 0),
            ("Later", "arrow_downward", 1, place == of - 1),
        ):
            st.button(
                words,
                key=f"turn-{words.lower()}-{run.id}",
                icon=f":material/{icon}:",
                width="stretch",
                disabled=off,
                on_click=move,
                args=(run.id, by),
            )
        st.button(
            "Take it out",
            key=f"turn-out-{run.id}",
            icon=":material/close:",
            width="stretch",
            help="It never begins; Resume puts it into the queue again.",
            on_click=run.stop,
        )


def edge(id: str, parent: str) -> str:
    """What a branch has changed against its parent, in words; a parent that was deleted may come back."""
    try:
        return _edge(id, parent)
    except StoreError:
        return "branch of a deleted run"
    except (SpecError, OSError):
        return "branch of a run that cannot be read"


@st.cache_data(max_entries=500, show_spinner=False)
def _edge(id: str, parent: str) -> str:
    """Documents never change, so it is worked out once; what is raised is not kept."""
    from pages.kit.branching import change_words

    store = RunStore(home())
    changed = change_words(store.run(parent).experiment, store.run(id).experiment)
    return f"branch: {'; '.join(changed[:3]) or 'nothing changed'}{' ...' if len(changed) > 3 else ''}"


def run_list(runs: Sequence[Run], views: dict[str, RunView], shown: Sequence[str]) -> None:
    """One card a run: a press shows it alone, a tick lays it over the others."""
    waiting = [m.id for m in markers(home()) if m.id in views and views[m.id].status == "queued"]
    with st.container(key="run-list", gap="xsmall"):
        for limb in tree(runs):
            run, view = limb.run, views[limb.run.id]
            tags = notes.read(run).tags
            facts = [curves.best_words(view), ago(begun(run)), *(f"#{tag}" for tag in tags)]
            if limb.branch is not None:
                facts.append(edge(run.id, limb.branch.parent))
            if run.id in waiting:
                facts.insert(0, f"number {waiting.index(run.id) + 1} in the queue")
            elif view.active and view.epochs:
                facts.insert(0, f"epoch {view.epoch} of {view.epochs}")
            words = plain(" · ".join(filter(None, facts)))
            meant = len(shown) > 1 and run.id == shown[0]  # buttons and sections mean this one
            marked = f"limb-{min(limb.depth, _DEEPEST)}-{'meant' if meant else run.id}"
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
                if run.id in waiting:
                    turn(run, waiting.index(run.id), len(waiting))
