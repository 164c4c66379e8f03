"""On which terms does it answer? Its confidence set right, "I don't know", and what is done with strange scans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from builder import calibrate, gate
from builder.calibrate import NotCalibrated
from builder.data import datasets
from builder.execute import home
from builder.runs import Run, StoreError
from builder.terms import ALWAYS, COVERAGE, GATES, RISK, Terms
from pages.kit import figures, jobs, style
from pages.kit.words import amount, plain

__all__ = ["card"]

_KINDS = {ALWAYS: "Answer every scan", COVERAGE: "Answer the surest", RISK: "Keep mistakes rare"}
_USUAL = {COVERAGE: 80.0, RISK: 5.0}


def card(run: Run, has_classes: bool) -> None:
    """The card: what the validation side says, the choices, and what they come to on the test side."""
    with style.card("When it answers, and how sure", key="terms"):
        st.caption(
            "Chosen here on the validation scans, it goes for every answer of this run from then on: on the Test page, "
            "by the command line, and in what you export."
        )
        left, right = st.columns([1.15, 1], gap="large")
        with left:
            if has_classes:
                _confidence(run)
            else:
                st.caption(
                    "This task tells no classes, so there is no confidence to calibrate and no class to keep silent "
                    "about. The gate beside goes for it, too."
                )
        with right:
            _gate(run)
        if refused := st.session_state.pop("terms-refused", ""):
            st.error(plain(refused), icon=":material/error:")


# -- confidence -------------------------------------------------------------------------------------------------------


def _confidence(run: Run) -> None:
    found, slot = calibrate.kept(run), f"confidence-{run.id}"
    st.markdown("**Its confidence**")
    if found is None:
        job = jobs.of_slot(slot)
        st.caption("How far its confidence can be believed is not judged yet.")
        st.button(
            "Ask the validation scans",
            key="ask-confidence",
            icon=":material/speed:",
            disabled=job is not None and job.view().active,
            on_click=_submit,
            args=("confidence", {"run": run.id}, slot),
        )
        jobs.watch(slot, "Asking the validation scans")
        return
    now = calibrate.chosen(run)
    told = found["calibration"]
    given, warm, heat = told["given"], told["tempered"], told["temperature"]
    st.toggle(
        "Calibrate its probabilities",
        value=now.temperature is not None,
        key=f"terms-calibrated-{run.id}",
        on_change=_choose,
        args=(run,),
        help="Divides its log-odds by one number, the temperature, that makes the validation scans' truths likeliest. "
        "Which class is named does not change, unless it answers from a confidence of its own (below).",
    )
    st.caption(
        f"On {amount(found['n'], 'validation scan')} it is {_bold(heat)} (temperature {heat:.2f}). There the error of "
        f"its confidence is {given['ece']:.3f}, {warm['ece']:.3f} once calibrated; its surprise (mean negative "
        f"log-likelihood) {given['nll']:.3f}, then {warm['nll']:.3f}."
    )
    if found["multi_label"]:
        st.caption("With several labels a scan there is no single answer to keep silent about.")
        return
    kind = st.segmented_control(
        'When it may say "I don\'t know"',
        list(_KINDS),
        format_func=_KINDS.__getitem__,
        default=now.by,
        required=True,
        key=f"terms-by-{run.id}",
        on_change=_choose,
        args=(run,),
    )
    if kind:
        first = 100 * now.wanted if now.by == kind else _USUAL[kind]
        words = "Of 100 validation scans it answers" if kind == COVERAGE else "Of 100 answers at most this many wrong"
        low, high = (10.0, 99.0) if kind == COVERAGE else (0.5, 30.0)
        st.slider(
            words, low, high, min(high, max(low, first)), 1.0 if kind == COVERAGE else 0.5,
            key=f"terms-wanted-{kind}-{run.id}", on_change=_choose, args=(run,),
            format="%.0f" if kind == COVERAGE else "%.1f",
        )  # fmt: skip
    _curve(found, now)
    _on_test(run, now)


def _bold(temperature: float) -> str:
    if abs(temperature - 1) < 0.03:
        return "about as sure as it should be"
    return "surer of itself than it should be" if temperature > 1 else "less sure of itself than it could be"


def _curve(found: Mapping[str, Any], now: Terms) -> None:
    """What is wrong among the answers, over how many are answered; with the point that is chosen."""
    rows = found["silence"]["tempered" if now.temperature is not None else "given"]
    if not rows:
        return
    shares = [100 * share for share in rows["answered"]]
    wrong = [100 * (1 - right) for right in rows["right"]]
    points = None
    if now.limit is not None:
        at = max((k for k, least in enumerate(rows["from"]) if least >= now.limit - 1e-9), default=0)
        points = {"wrong": (shares[at], wrong[at])}
    figures.lines(
        [("wrong", shares, wrong)],
        key="terms-curve",
        x_title="Answered of 100 validation scans, the surest first",
        y_title="Wrong of 100 answers",
        x_range=(0, 102),
        y_range=(0, max(2.0, 1.1 * max(wrong))),
        points=points,
        height=230,
    )


def _on_test(run: Run, now: Terms) -> None:
    if now.limit is None:
        return
    told = calibrate.on_test(run)
    head = f"It answers from a confidence of {100 * now.limit:.3g} % on."
    if told is None:
        st.caption(f"{head} What that comes to on the test scans shows once these are opened.")
        return
    words = f"{head} On {amount(told['n'], 'test scan')} it answers {_of_100(told['answered'])}"
    words += f"; of those {_of_100(told['right'])} are right"
    if told["silent_right"]["value"] is not None:
        words += f", of the others {_of_100(told['silent_right'])} would have been"
    st.markdown(f":material/front_hand: {words}.")


def _of_100(figure: Mapping[str, float | None]) -> str:
    if figure["value"] is None:
        return "none"
    low, high = figure["low"] or 0.0, figure["high"] or 0.0
    return f"**{100 * figure['value']:.3g} of 100** ({100 * low:.3g} to {100 * high:.3g})"


def _choose(run: Run) -> None:
    """Writes down what the widgets say; what cannot be chosen is said, and all stays as it was."""
    now, state = calibrate.chosen(run), st.session_state
    by = state.get(f"terms-by-{run.id}", now.by)
    wanted = 1.0
    if by:
        usual = 100 * now.wanted if now.by == by else _USUAL[by]
        wanted = float(state.get(f"terms-wanted-{by}-{run.id}", usual)) / 100
    calibrated = bool(state.get(f"terms-calibrated-{run.id}", now.temperature is not None))
    policy = str(state.get(f"terms-gate-{run.id}", now.gate))
    try:
        calibrate.choose(run, calibrated=calibrated, by=by, wanted=wanted, gate=policy)
    except (NotCalibrated, ValueError) as error:
        state["terms-refused"] = str(error)
    except OSError:
        state["terms-refused"] = "This cannot be kept: the run's folder cannot be written."


# -- the gate ---------------------------------------------------------------------------------------------------------


def _gate(run: Run) -> None:
    now, slot = calibrate.chosen(run), f"gated-{run.id}"
    st.markdown("**Scans unlike its own**")
    st.segmented_control(
        "A scan of another kind",
        list(GATES),
        format_func=GATES.__getitem__,
        default=now.gate,
        required=True,
        key=f"terms-gate-{run.id}",
        on_change=_choose,
        args=(run,),
        help="Of another modality, depth of grey or size, grey where the others are in colour, or unlike them in what "
        "the network makes of it.",
    )
    if now.note:
        st.caption(f":orange[:material/warning: {plain(now.note)}]")
    found = gate.kept(run)
    if found is not None:
        _stopped(found)
    own = run.experiment.data.dataset
    others = {s.id: s.name for s in datasets(home()) if s.id != own}
    st.selectbox(
        "Scans of another kind to try it on",
        ["", *others],
        format_func=lambda id: plain(others[id]) if id else "None: its own validation scans only",
        key=f"terms-foreign-{run.id}",
    )
    job = jobs.of_slot(slot)
    st.button(
        "Measure what it stops",
        key="ask-gated",
        icon=":material/door_front:",
        disabled=job is not None and job.view().active,
        on_click=_measure,
        args=(run, slot),
    )
    jobs.watch(slot, "Looking at the scans")


def _stopped(found: Mapping[str, Any]) -> None:
    own = found["own"]
    if own["n"]:
        st.markdown(
            f"Of {amount(own['n'], 'own validation scan')}, which it should let through, it stops "
            f"{_of_100(own['stopped'])}{_why(own)}."
        )
    for row in found["foreign"]:
        st.markdown(
            f"Of {amount(row['n'], 'scan')} of *{plain(row['name'])}* it stops {_of_100(row['stopped'])}{_why(row)}."
        )


def _why(row: Mapping[str, Any]) -> str:
    named = sorted(row["grounds"].items(), key=lambda item: -item[1])
    return f": {', '.join(f'{gate.GROUNDS[name]} ({count})' for name, count in named)}" if named else ""


def _measure(run: Run, slot: str) -> None:
    foreign = st.session_state.get(f"terms-foreign-{run.id}") or ""  # as it is now, not when the button was drawn
    _submit("gated", {"run": run.id, "foreign": foreign}, slot)


def _submit(kind: str, payload: dict[str, Any], slot: str) -> None:
    try:
        jobs.submit(kind, payload, slot)
    except StoreError as error:
        st.session_state["terms-refused"] = str(error)
