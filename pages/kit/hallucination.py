"""Does it make things up? What an enhanced scan shows that is not there, and what it hides; what a diagnosis says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from builder import hallucination
from builder.hallucination import WAYS
from builder.measures.structures import KINDS
from builder.runs import Run, StoreError
from builder.spec import SpecError
from builder.task import TASKS, find
from pages.kit import figures, jobs, opinions, style
from pages.kit.trained import usable_runs
from pages.kit.words import amount, plain

__all__ = ["card"]

_SHORT = {"made_up": "Made up", "from_noise": "Made of noise", "taken_away": "Taken away"}


def card(run: Run) -> None:
    """Both cards, for runs that restore scans; nothing for others."""
    try:
        task = run.experiment.task
    except (SpecError, OSError):
        return
    if task not in TASKS or find(task).label_kind != "picture":
        return
    with style.card("Does it make things up?", key="hallucination"):
        _structures(run)
    with style.card("Is a diagnosis better on its scans?", key="diagnosed"):
        _diagnosis(run)


def _structures(run: Run) -> None:
    st.caption(
        "Whole slices of the validation side are restored and searched for round structures that a reader could see "
        "and that only one of both pictures has. No look at the test scans is spent on it."
    )
    found, slot = hallucination.kept(run), f"audited-{run.id}"
    if found is not None:
        for words in found["verdicts"]:
            bad = words.startswith("It ")
            st.markdown(f":{'orange' if bad else 'gray'}[:material/{'warning' if bad else 'info'}: {plain(words)}]")
        st.dataframe(
            [
                {"A slice, on average": WAYS[way]} | {_SHORT[kind]: figures.interval(row[kind]) for kind in KINDS}
                for way, row in found["ways"].items()
            ],
            hide_index=True,
            key="structures",
            column_config={_SHORT[kind]: st.column_config.TextColumn(help=words) for kind, words in KINDS.items()},
        )
        st.caption(
            f"{amount(found['n'], 'slice')} of {amount(found['patients'], 'patient')}; in brackets the 95 % interval "
            "over patients. A mild filter invents nothing: what it counts is what such a search finds by chance."
        )
        _gallery(run, found)
    _button("Search restored scans", found, "ask-audited", "audited", {"run": run.id}, slot)
    jobs.watch(slot, "Searching restored scans")


def _gallery(run: Run, found: Mapping[str, Any]) -> None:
    if not found["shown"]:
        return
    unit = f" {found['unit']}" if found["unit"] else ""
    st.caption("The strongest, each as it came, as this network made it, and as it should be:")
    places = st.columns(3, gap="medium")
    for number, row in enumerate(found["shown"]):
        file = hallucination.drawn(run, number)
        if not file.is_file():
            continue
        size = f"{row['diameter_mm']:.1f} mm" if row["diameter_mm"] else f"{row['diameter_px']:.0f} px"
        with places[number % 3]:
            st.image(file.read_bytes(), width="stretch", alt=f"{_SHORT[row['kind']]}, {size}")
            st.caption(
                f"**{_SHORT[row['kind']]}** · {size} · contrast {row['contrast']:+.0f}{unit} "
                f"(came {row['before']:+.0f}, made {row['after']:+.0f}, true {row['true']:+.0f})"
            )


def _diagnosis(run: Run) -> None:
    st.caption(
        "A network that tells classes is asked about its own validation scans as they came and restored; each answer "
        "is counted right or wrong."
    )
    found, slot = hallucination.diagnosed(run), f"diagnosed-{run.id}"
    if found is not None:
        colour, icon = {"better": ("green", "trending_up"), "worse": ("red", "trending_down")}.get(
            found["verdict"], ("gray", "trending_flat")
        )
        st.markdown(f":{colour}[:material/{icon}:] {plain(found['words'])}")
        poor = " They were made poor first, as this run learned it." if found["poor"] else ""
        refused = f" {amount(found['refused'], 'scan')} could not be restored." if found["refused"] else ""
        st.caption(
            f"Asked was {plain(found['name'])}: {amount(found['n'], 'validation scan')} of "
            f"{amount(found['patients'], 'patient')}.{poor}{refused}"
        )
    there = opinions.judges(usable_runs())
    if not there:
        st.caption("There is no finished run that tells classes, so nobody can be asked.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        judge = st.selectbox(
            "Network that tells classes",
            list(there),
            key=f"judge-of-{run.id}",
            format_func=lambda id: there[id],
            width=320,
        )
        _button("Ask it", found, "ask-diagnosed", "diagnosed", {"run": run.id, "judge": judge}, slot)
    jobs.watch(slot, "Asking before and after")


def _button(title: str, found: Any, key: str, kind: str, payload: dict[str, Any], slot: str) -> None:
    job = jobs.of_slot(slot)
    st.button(
        title if found is None else "Ask again",
        key=key,
        icon=":material/search:",
        type="secondary" if found is None else "tertiary",
        disabled=job is not None and job.view().active,
        on_click=_submit,
        args=(kind, payload, slot),
    )
    if refused := st.session_state.pop(f"{kind}-refused", ""):
        st.error(plain(refused), icon=":material/error:")


def _submit(kind: str, payload: dict[str, Any], slot: str) -> None:
    if "judge" in payload:  # the one that is chosen now: the button may be from before the last choice
        payload = {**payload, "judge": st.session_state[f"judge-of-{payload['run']}"]}
    try:
        jobs.submit(kind, payload, slot)
    except StoreError as error:
        st.session_state[f"{kind}-refused"] = str(error)
