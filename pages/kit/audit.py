"""The audit of a data set: what leaks, what gives the label away, which labels look wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from builder import attributes, audit, leaks
from builder.data import Dataset
from builder.evaluate import openings
from builder.execute import home
from builder.labels import LabelRefused, record
from builder.runs import Run, StoreError
from builder.spec import SpecError
from pages.kit import datasets, draft, findings, forms, go, jobs, style
from pages.kit.figures import interval
from pages.kit.pairs import pairs
from pages.kit.words import amount, plain

__all__ = ["banner", "beside", "card", "consent"]

SLOT = "audit"
_SHOWN = 6
_MORE = 48
_SIDES = {"train": "training", "val": "validation", "test": "test"}
_HELP = (
    "Looks for pictures that occur twice (also turned, mirrored, resized or saved again), patients on two sides of the "
    "split, one lesion in two classes, labels that can be told from the file or the border alone, and labels that look "
    "wrong. Of the test side only the pictures are compared; where one is in a pair, its label is shown, too."
)


def card(dataset: Dataset) -> None:
    """Draws the audit of a data set on the Data page, or the button that makes it."""
    found = audit.kept(dataset)
    with style.card("Audit", key="audit"):
        if found is None:
            st.caption(_HELP)
            _leak_known(dataset)
        else:
            verdicts(found)
            if found.get("relabelled"):
                st.caption(
                    ":orange[:material/warning: Labels, or facts about the scans, were changed since: audit again.]"
                )
            _figures(found)
        _ask(dataset, found)
    if found is None:
        return
    if found["leak"]["pairs"]:
        with style.card("Pictures that occur twice", key="audit-pairs"):
            _pairs(dataset, found)
    if found["suspects"].get("cases"):
        with style.card("Labels worth a second look", key="audit-suspects"):
            _suspects(dataset, found)


def verdicts(found: Mapping[str, Any]) -> None:
    """The sentences of an audit, those that should stop somebody in orange."""
    for verdict in found["verdicts"]:
        grave = verdict["grave"]
        colour, icon = ("orange", "warning") if grave else ("gray", "check" if verdict["about"] == "leak" else "info")
        st.markdown(f":{colour}[:material/{icon}: {plain(verdict['words'])}]")


def banner(run: Run) -> None:
    """The stamp of a run that was measured on what it learned from; nothing for any other."""
    if leak := leaks.of_run(run):
        st.error(
            f"**{leaks.STAMP}** {plain(leak.stamp.removeprefix(f'{leaks.STAMP}: '))}", icon=":material/water_drop:"
        )


def consent(of: draft.Draft, found: findings.Findings) -> None:
    """What leaks in the scans that a draft names, with its repair, and the tick that learns from it all the same."""
    data = of.experiment.data
    if found.summary is None or not leaks.leak_of(found.summary.fingerprint, data.exclude):
        return
    accepted = data.leaks == "accepted"
    if accepted:
        stamp = leaks.leak_of(found.summary.fingerprint, data.exclude).stamp
        st.markdown(f":orange[:material/water_drop: {plain(stamp)}]")
    else:
        forms.marks(of, [p for p in forms.problems_at(found.problems, "data.leaks") if "stamped" not in p.repair])
    if st.session_state.get("data.leaks") != accepted:
        st.session_state["data.leaks"] = accepted
    st.checkbox(
        f"Learn from the leak all the same, stamped {leaks.STAMP}",
        key="data.leaks",
        on_change=_accept,
        args=(of,),
        help="Every figure, page, answer and file of such a run carries the stamp.",
    )


@draft.spared
def _accept(of: draft.Draft) -> None:
    accepted = bool(st.session_state["data.leaks"])
    of.replace("data.leaks", "accepted" if accepted else "refused", "leak accepted" if accepted else "leak refused")


def beside(run: Run) -> None:
    """The audit in short, beside a run's figures, and how often the test side was opened."""
    try:
        dataset = Dataset.open(home(), run.experiment.data.dataset)
    except (LookupError, SpecError, OSError):
        return
    found = audit.kept(dataset)
    with style.card("Audit of its scans", key="audit"):
        if found is None:
            st.caption(_HELP)
            _leak_known(dataset, run)
        else:
            verdicts(found)
            if found.get("relabelled"):
                st.caption(
                    ":orange[:material/warning: Labels, or facts about the scans, were changed since: audit again.]"
                )
            _figures(found)
        times = openings(dataset)
        st.caption(f"The test side of these scans was opened {amount(times, 'time')} so far, by all runs together.")
        with st.container(horizontal=True):
            _ask(dataset, found)
            if found is not None and st.button(
                "See what it found",
                key="to-audit",
                icon=":material/pageview:",
                help="Pairs and labels, on the Data page",
            ):
                go.to("data", dataset=dataset.id)


def _leak_known(dataset: Dataset, run: Run | None = None) -> None:
    """What the import alone tells, while nobody has asked for an audit."""
    leak = leaks.of_run(run) if run is not None else leaks.of_dataset(dataset)
    words = leak.words or "By what the import compared, no patient and no picture lies on two sides of the split."
    st.markdown(f":{'orange' if leak else 'gray'}[:material/{'warning' if leak else 'info'}: {plain(words)}]")


def _figures(found: Mapping[str, Any]) -> None:
    """Figures side by side: the honest split and the naive one, and what traces alone reach."""
    rows = []
    naive = found["naive"]
    if naive.get("gain"):
        rows += [
            ("Frozen features, kept apart by patient", _spread(naive["honest"])),
            ("The same, split by picture at random", _spread(naive["naive"])),
        ]
    told = {"made": "How the file was made, alone", "border": "Border and writing, alone"}
    told |= {name: f"{attributes.title(name)}, alone" for name in found["traces"] if name not in told}
    for name, words in told.items():
        trace = found["traces"].get(name)
        if trace and trace["auc"]:
            rows.append((words, interval(trace["auc"])))
    if not rows:
        return
    pairs(rows, figures=True)
    repeats = f"; of the two splits, the range over {naive['repeats']} repeats" if naive.get("gain") else ""
    st.caption(
        f"AUC on training and validation scans that the rule was not fitted to (0.5 is guessing). In brackets the 95 % "
        f"interval over patients{repeats}."
    )


def _spread(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f}–{figure['high']:.3f})"


def _ask(dataset: Dataset, found: Mapping[str, Any] | None) -> None:
    slot = f"{SLOT}-{dataset.id}"
    job = jobs.of_slot(slot)
    st.button(
        "Audit these scans" if found is None else "Audit again",
        key="ask-audit",
        icon=":material/policy:",
        type="primary" if found is None else "tertiary",
        help=_HELP,
        disabled=job is not None and job.view().active,
        on_click=_submit,
        args=(dataset.id, slot),
    )
    if refused := st.session_state.pop("audit-refused", ""):
        st.error(plain(refused), icon=":material/error:")
    jobs.watch(slot, "Auditing")


def _submit(dataset: str, slot: str) -> None:
    try:
        jobs.submit("audit", {"dataset": dataset}, slot)
    except StoreError as error:
        st.session_state["audit-refused"] = str(error)


# -- pairs ------------------------------------------------------------------------------------------------------------


def _pairs(dataset: Dataset, found: Mapping[str, Any]) -> None:
    counts, told = found["leak"]["counts"], found["leak"]["pairs"]
    kinds = (
        ("same", "the same"),
        ("near", "almost the same"),
        ("turned", "turned or mirrored"),
        ("seen", "alike to a network"),
    )
    said = ", ".join(f"{counts[kind]:,} {words}" for kind, words in kinds if counts[kind])
    st.caption(
        f"Pairs: {said}. {counts['across']:,} of them lie on two sides of the split, {counts['conflicts']:,} carry two "
        "labels. Pictures of one pair should stay on one side: new imports see to that; a split that came with the "
        "scans is kept as it is, and what leaks can be left out."
    )
    shown = told[: _MORE if st.session_state.get("audit-all-pairs") else _SHOWN]
    for start in range(0, len(shown), 3):
        for place, pair in zip(st.columns(3, gap="medium"), shown[start : start + 3], strict=False):
            with place:
                _pair(dataset, pair)
    if len(told) > _SHOWN:
        st.toggle(f"Show {min(len(told), _MORE)} of {sum(counts[kind] for kind, _ in kinds):,}", key="audit-all-pairs")
    _leave_out(dataset)


def _pair(dataset: Dataset, pair: Mapping[str, Any]) -> None:
    left, right = st.columns(2, gap="xsmall")
    for place, which, side, label in zip((left, right), ("one", "other"), pair["sides"], pair["labels"], strict=True):
        with place:
            st.image(datasets.thumbnail(str(home()), dataset.id, pair[which]), width="stretch")
            st.caption(f"{_SIDES[side]}  \n{plain(label) if label else 'no label'}")
    marks = " · ".join(
        [
            *([":orange[two sides]"] if pair["across"] else []),
            *([":orange[two labels]"] if pair["conflict"] else []),
            f"{100 * pair['likeness']:.0f} % alike",
        ]
    )
    st.markdown(f"{plain(pair['words'].capitalize())} · {marks}")


def _leave_out(dataset: Dataset) -> None:
    """The way to a training without the leak, in the open experiment."""
    leak = leaks.of_dataset(dataset)
    open_draft = draft.current()
    if not leak.train or open_draft is None or open_draft.experiment.data.dataset != dataset.id:
        return
    left = leaks.of_dataset(dataset, open_draft.experiment)
    if not left.train:
        st.caption(":green[:material/check: The open experiment leaves the training scans that leak out.]")
        return
    st.button(
        f"Leave {amount(len(left.train), 'training scan')} out",
        key="audit-leave-out",
        icon=":material/remove_selection:",
        help="Of the open experiment: what is also in the validation or test side is not learned from",
        on_click=_exclude,
        args=(left.train,),
    )


def _exclude(ids: tuple[str, ...]) -> None:
    open_draft = draft.current()
    if open_draft is None:
        return
    try:
        out = tuple(sorted({*open_draft.experiment.data.exclude, *ids}))
        open_draft.replace("data.exclude", out, f"{amount(len(ids), 'scan')} left out")
    except SpecError as error:
        st.session_state["audit-refused"] = str(error)


# -- labels -----------------------------------------------------------------------------------------------------------


def _as_told(dataset: Dataset, suspect: Mapping[str, Any]) -> bool:
    """Whether a doubtful label is still the one that was found doubtful."""
    label = int(dataset.labels[suspect["index"]])
    return label >= 0 and dataset.classes[label] == suspect["given"]


def _suspects(dataset: Dataset, found: Mapping[str, Any]) -> None:
    told = [one for one in found["suspects"]["cases"] if _as_told(dataset, one)]
    st.caption(
        "A rule on frozen features, fitted without each of these scans, finds another class at least five times as "
        "likely. It is a weak rule: look before you change anything. A correction is kept with who and when."
    )
    shown = told[: _MORE if st.session_state.get("audit-all-suspects") else 2 * _SHOWN]
    for start in range(0, len(shown), _SHOWN):
        for place, suspect in zip(st.columns(_SHOWN, gap="small"), shown[start : start + _SHOWN], strict=False):
            with place:
                _suspect(dataset, suspect)
    if len(told) > 2 * _SHOWN:
        st.toggle(f"Show {min(len(told), _MORE)} of {found['suspects']['n']:,}", key="audit-all-suspects")


def _suspect(dataset: Dataset, suspect: Mapping[str, Any]) -> None:
    index = suspect["index"]
    st.image(datasets.thumbnail(str(home()), dataset.id, index), width="stretch")
    st.markdown(f"{plain(suspect['given'])}, not **{plain(suspect['says'])}** ({100 * suspect['sure']:.0f} %)?")
    key = f"audit-label-{dataset.id}-{index}"
    st.selectbox(
        "It shows",
        range(len(dataset.classes)),
        index=int(dataset.labels[index]),
        format_func=lambda k: dataset.classes[k],
        key=key,
        on_change=_relabel,
        args=(dataset, index, key),
    )
    open_draft = draft.current()
    own = open_draft is not None and open_draft.experiment.data.dataset == dataset.id
    if own and open_draft is not None and dataset.cases[index].split == "train":
        out = suspect["case"] in open_draft.experiment.data.exclude
        st.button(
            "Is left out" if out else "Leave out",
            key=f"audit-out-{index}",
            type="tertiary",
            disabled=out,
            on_click=_exclude,
            args=((suspect["case"],),),
        )


def _relabel(dataset: Dataset, index: int, key: str) -> None:
    try:
        record(dataset, index, label=int(st.session_state[key]), origin="corrected")
    except (LabelRefused, OSError) as error:
        st.session_state["audit-refused"] = str(error)
