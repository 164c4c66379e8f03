"""A search before it starts: what may change, how it goes about it, what it looks for, what is wrong; and the start."""

from __future__ import annotations

import time
from collections.abc import Mapping
from math import prod

import streamlit as st

from builder.catalog import Domain
from builder.execute import executor, home
from builder.parts.search import PRUNERS, SEARCH, STRATEGIES
from builder.runs import StoreError
from builder.search import objectives
from builder.search.studies import StudyStore
from builder.spec import Dimension, Experiment, Objective, Search
from pages.kit import draft as drafts
from pages.kit import findings, forms, go, locks, style
from pages.kit.pairs import pairs
from pages.kit.study_words import metric_words
from pages.kit.words import amount, path_words, plain

__all__ = ["heading", "page"]

_FIRST = (
    "training.optimizer.params.lr",
    "training.l2",
    "training.batch_size",
    "training.optimizer",
    "training.augment.rotate",
)
"""What most searches begin with; those of them that the document has are offered as buttons."""
_BUDGET = ("num_trials", "max_minutes", "max_gpu_hours", "parallel", "seed")
_LIMITS = ("max_parameters", "max_milliseconds", "max_memory_mb")
_AGAIN_S = 3.0  # two presses of Start within this time are one


def heading(draft: drafts.Draft) -> None:
    """The title."""
    with style.heading("Which settings win?", f"A search of {plain(draft.name)}: unlock what may change, then start."):
        if st.button("Back to training", key="to-training", icon=":material/model_training:"):
            go.to("training")


def page(draft: drafts.Draft) -> None:
    """The search of the open experiment."""
    found = findings.look(draft.experiment)
    left, right = st.columns([2.2, 1.1], gap="medium")
    with left:
        what(draft, found)
        if draft.experiment.search is not None:
            how(draft, found)
            goal(draft, found)
    with right:
        before(draft, found)


def what(draft: drafts.Draft, found: findings.Findings) -> None:
    """The unlocked choices with their ranges, and the ways to unlock more."""
    now = draft.experiment
    unlocked = now.search.dimensions if now.search else ()
    offers = locks.lockable(now)
    with style.card("What may change", key="space"):
        if not unlocked:
            st.caption(
                "Nothing yet. A small lock :material/lock: stands beside every choice on the Training and Network "
                "pages: press it, and a search tries several values there. Or begin here:"
            )
        for dimension in unlocked:
            row(draft, dimension, offers.get(dimension.path), found)
        forms.marks(draft, forms.problems_at(found.problems, "search.dimensions"))
        more(draft, offers)


def row(draft: drafts.Draft, dimension: Dimension, domain: Domain | None, found: findings.Findings) -> None:
    """One unlocked choice: its name and present value, the range to try, and the lock."""
    path, now = dimension.path, draft.experiment
    with st.container(key=f"dimension-{path.replace('.', '-')}", border=True, gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            words = f"**{plain(locks.title(path, domain))}** :gray[{plain(locks.present_words(now, path, domain))}]"
            st.markdown(words, width="content")
            st.button(
                f"Lock {plain(locks.title(path, domain))} again",
                key=f"relock:{path}",
                type="tertiary",
                icon=":material/lock_open:",
                on_click=locks.toggle,
                args=(draft, path),
            )
        locks.ranges(draft, dimension, domain, "row")
        forms.marks(draft, [p for p in found.problems if p.path == f"search.{path}"])


def more(draft: drafts.Draft, offers: Mapping[str, Domain]) -> None:
    """The usual choices as buttons, and all of them in one list."""
    now = draft.experiment
    unlocked = {d.path for d in now.search.dimensions} if now.search else set()
    usual = [path for path in _FIRST if path in offers and path not in unlocked]
    rest = [path for path in offers if path not in unlocked]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        for path in usual[: 4 if not unlocked else 2]:
            st.button(
                plain(locks.title(path, offers[path])),
                key=f"begin-with:{path}",
                icon=":material/lock:",
                on_click=locks.toggle,
                args=(draft, path),
            )
        st.session_state["unlock-another"] = None
        st.selectbox(
            "Unlock another choice",
            rest,
            index=None,
            key="unlock-another",
            placeholder="Unlock another choice ...",
            label_visibility="collapsed",
            format_func=lambda path: f"{_section(path)}: {locks.title(path, offers[path])}",
            on_change=_unlock,
            args=(draft,),
            width=330,
        )


def _section(path: str) -> str:
    head, _, rest = path.partition(".")
    return {"data": "Preparation", "network": "Network"}.get(
        head, "Augmentation" if rest.startswith("augment.") else "Training"
    )


@drafts.spared
def _unlock(draft: drafts.Draft) -> None:
    path = st.session_state["unlock-another"]
    if path and locks.dimension_of(draft.experiment, path) is None:
        locks.toggle(draft, path)


def how(draft: drafts.Draft, found: findings.Findings) -> None:
    """Strategy, early ends and budget."""
    with style.card("How it goes about it", key="strategy"):
        left, right = st.columns(2, gap="medium")
        with left:
            words = "How the next trial is chosen"
            forms.choice(draft, "search.strategy", STRATEGIES, found.problems, label=words, num_columns=1)
        with right:
            forms.choice(
                draft, "search.pruner", PRUNERS, found.problems, label="When poor trials end early", num_columns=1
            )
        forms.section(draft, "search", [SEARCH.param(n) for n in _BUDGET], found.problems, num_columns=3)


def goal(draft: drafts.Draft, found: findings.Findings) -> None:
    """What the search looks for, and what no trial may exceed."""
    with style.card("What it looks for", key="goal"):
        now = draft.experiment
        assert now.search is not None
        chosen = [o.metric for o in now.search.objectives]
        options = list(dict.fromkeys([*objectives.known(now), *chosen]))
        if st.session_state.get("search.objectives") != chosen:
            st.session_state["search.objectives"] = chosen
        watched = metric_words(now.training.monitor)
        st.multiselect(
            "Objectives",
            options,
            key="search.objectives",
            placeholder=f"The score that the training watches: {watched}",
            format_func=metric_words,
            help="One: the best trial wins. Several: you see the trials that no other one beats in all of them.",
            on_change=_objectives,
            args=(draft,),
        )
        forms.marks(draft, forms.problems_at(found.problems, "search.objectives", inside=True))
        st.caption("Limits: 0 means no limit. What exceeds one is not trained at all.")
        forms.section(draft, "search", [SEARCH.param(n) for n in _LIMITS], found.problems, num_columns=3)


@drafts.spared
def _objectives(draft: drafts.Draft) -> None:
    wanted = tuple(Objective(metric=name) for name in st.session_state["search.objectives"])

    def change(now: Experiment) -> Experiment:
        search = now.search or Search()
        return now.replace("search", search.model_copy(update={"objectives": wanted}))

    draft.apply(change, "objectives of the search")


def combinations(search: Search) -> int | None:
    """Returns how many documents the space holds; None where a range has no steps, so that nobody can count them."""
    counts = []
    for d in search.dimensions:
        if d.choices:
            counts.append(len(d.choices))
        elif d.step and d.low is not None and d.high is not None:
            counts.append(int((d.high - d.low) / d.step + 1e-9) + 1)
        else:
            return None
    return prod(counts)


def before(draft: drafts.Draft, found: findings.Findings) -> None:
    """The search in numbers, what is in the way, and the start."""
    now, search = draft.experiment, draft.experiment.search
    unlocked = search.dimensions if search else ()
    with st.container(key="start", border=True):
        st.subheader("Before the search", anchor=False)
        if search and unlocked:
            count = combinations(search)
            pairs(
                [
                    ("Choices unlocked", str(len(unlocked))),
                    ("Combinations", f"{count:,}" if count is not None else "endless"),
                    ("Trials", f"{search.num_trials:,}"),
                    ("Epochs a trial", f"{now.training.epochs:,}"),
                ],
                figures=True,
            )
        for heading, severity in (("In the way", "error"), ("To think about", "warning")):
            faults = [p for p in found.problems if p.severity == severity]
            if faults:
                st.markdown(f"**{heading}**")
                for number, problem in enumerate(faults):
                    st.caption(plain(path_words(problem.path)))
                    findings.repairs(draft, [problem], f"search-{number}-{severity}")
        refused = st.session_state.pop("search-refused", "")
        if refused:
            st.markdown(f":red[:material/error: {plain(refused)}]")
        blocked = len(found.errors)
        pressed = st.button(
            "Start the search",
            key="start-search",
            type="primary",
            icon=":material/play_arrow:",
            width="stretch",
            disabled=bool(blocked) or not unlocked,
        )
        if blocked:
            st.caption(f"It can start once {amount(blocked, 'thing')} above {'is' if blocked == 1 else 'are'} mended.")
        elif not unlocked:
            st.caption("It can start once a choice is unlocked.")
        else:
            st.caption("Each trial is an ordinary run: you find it on the Runs page, too.")
    if pressed:
        start(now)


def start(now: Experiment) -> None:
    """Begins the search and shows it. A double click begins one."""
    text, at, id = st.session_state.get("last-search", ("", 0.0, ""))
    if text == now.dumps() and time.monotonic() - at < _AGAIN_S:
        go.to("search", study=id)
    try:
        study = StudyStore(home()).create(now)
        st.session_state["last-search"] = (now.dumps(), time.monotonic(), study.id)
        executor(home()).ensure()
    except StoreError as error:
        st.session_state["search-refused"] = str(error)
        st.rerun()
    go.to("search", study=study.id)
