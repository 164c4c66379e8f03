"""Pre-flight on the Training page: a few real steps tell memory, the largest batch and the time of an epoch."""

from __future__ import annotations

import streamlit as st

from builder import preflight
from builder.parts.training import TRAINING
from builder.preflight import sentences, subject_digest
from builder.runs import TIME, Run, RunView, StoreError
from builder.spec import Experiment
from pages.kit import draft as drafts
from pages.kit import jobs
from pages.kit.charts import reached
from pages.kit.findings import Findings
from pages.kit.pairs import pairs
from pages.kit.words import duration, plain, size

__all__ = ["SLOT", "check", "foretold", "keep"]

SLOT = "preflight"


def check(draft: drafts.Draft, found: Findings) -> None:
    """The button, how it is going, and what was measured."""
    job = jobs.of_slot(SLOT)
    busy = job is not None and job.view().active
    st.button(
        "Pre-flight",
        key="preflight-go",
        icon=":material/speed:",
        width="stretch",
        disabled=bool(found.errors) or found.summary is None or busy,
        help="Does a few real training steps and throws them away: how much memory a batch takes, which one is the "
        "largest that is safe, how long an epoch takes.",
        on_click=ask,
        args=(draft,),
    )
    refused = st.session_state.pop("preflight-refused", "")
    if refused:
        st.markdown(f":red[:material/error: {plain(refused)}]")
    jobs.watch(SLOT, "Trying a few steps")
    told = jobs.result(SLOT)
    if told is None:
        return
    if told["digest"] != subject_digest(draft.experiment):
        st.caption(":orange[:material/history: Measured before the last changes. Press Pre-flight for the present.]")
    verdict, basis = sentences(told)
    batch, largest = told["batch_size"], told["largest_batch"]
    good = bool(largest) and (batch <= largest or told["limited_by"] != "memory")
    icon = ":green[:material/check_circle:]" if good else ":red[:material/error:]"
    st.markdown(f"{icon} {plain(verdict)}")
    peak = f"{'' if told['peak_measured'] else 'about '}{size(told['peak_bytes'])}"
    pairs(
        [
            (f"Peak memory, batch {batch}", peak),
            ("Free for it now", size(told["available_bytes"])),
            ("Largest safe batch", f"about {largest}" if largest else "none"),
            ("An epoch", f"about {span(told['epoch_s'])}"),
            (f"All {told['epochs']} epochs", f"about {span(told['training_s'])}"),
        ]
    )
    now = draft.experiment.training.batch_size
    if largest and largest != now and told["limited_by"] == "memory":  # all scans at once are no better batch
        st.button(
            f"Use batch {largest}",
            key="preflight-use",
            icon=":material/build:" if not good else ":material/expand:",
            type="secondary" if good else "primary",
            help="A larger batch makes steady, fewer steps; it often wants a higher learning rate.",
            on_click=use,
            args=(draft, largest),
        )
    for number, other in enumerate(preflight.faster(told)):
        name = TRAINING.param(other["path"].rpartition(".")[2]).label
        value = {True: "on", False: "off"}.get(other["value"], other["value"])
        gain = 100 * (1 - other["seconds"] / other["seconds_now"])
        st.caption(plain(f"{name}: {value} makes a step {gain:.0f} % shorter on this machine (measured side by side)."))
        if draft.experiment.at(other["path"]) != other["value"]:
            st.button(
                f"Set {name.lower()} to {value}",
                key=f"preflight-faster-{number}",
                icon=":material/bolt:",
                on_click=set_faster,
                args=(draft, other["path"], other["value"]),
            )
    if told.get("others") and not preflight.faster(told):
        st.caption("Memory order and precision are the fastest ones of this machine already (measured side by side).")
    st.caption(plain(basis))


def keep(run: Run, experiment: Experiment) -> None:
    """Keeps the result of the pre-flight with the run, if it was made for exactly this experiment."""
    told = jobs.result(SLOT)
    if told is not None and told.get("digest") == subject_digest(experiment):
        preflight.keep(run.folder, told)


def foretold(run: Run, view: RunView) -> None:
    """On the Runs page: what the pre-flight said of this run, beside what came true."""
    told = preflight.kept(run.folder)
    if told is None:
        return
    with st.expander("Pre-flight", icon=":material/speed:"):
        peak = f"{'' if told['peak_measured'] else 'about '}{size(told['peak_bytes'])}"
        rows = [
            (f"Peak memory, batch {told['batch_size']}", peak),
            ("Was free for it", size(told["available_bytes"])),
            ("An epoch, foretold", f"about {span(told['epoch_s'])}"),
        ]
        if (took := epoch_s(view)) is not None:
            rows.append(("An epoch, so far" if view.active else "An epoch, in fact", span(took)))
        pairs(rows)
        st.caption(plain(sentences(told)[1]))


def epoch_s(view: RunView) -> float | None:
    """Seconds that an epoch of this run takes, over the whole ones that it has learned itself; None before the first
    has ended. The first one, which has the preparation of the scans in it, counts only while it is alone."""
    ends = view.curves.get("train/loss", ([], []))[0]
    if not ends or TIME not in view.curves:
        return None
    at = reached(ends, *view.curves[TIME])
    return float(at[-1] - at[0]) / (len(at) - 1) if len(at) > 1 else float(at[0])


@drafts.spared
def set_faster(draft: drafts.Draft, path: str, value: str | bool) -> None:
    """Writes a setting that was measured to be faster into the document."""
    draft.replace(path, value)


@drafts.spared
def ask(draft: drafts.Draft) -> None:
    """Submits the job for the draft as it is now."""
    now = draft.experiment
    try:
        jobs.submit("preflight", {"experiment": now.model_dump(mode="json")}, SLOT)
    except StoreError as error:
        st.session_state["preflight-refused"] = str(error)


@drafts.spared
def use(draft: drafts.Draft, batch: int) -> None:
    """Writes the batch size into the document."""
    draft.replace("training.batch_size", batch, f"batch of {batch}, from the pre-flight")


def span(seconds: float) -> str:
    """A span of time, tenths of a second where it is short: "0.7 s", "12 s", "3 min 20 s"."""
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)
