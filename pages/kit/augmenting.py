"""The augmentation designer: what is varied, how often and how much, what it does to a scan of one's own, what it
costs, and whether the labels stay true."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import streamlit as st

from builder.augment_safety import kind_of
from builder.catalog import Part
from builder.execute import home
from builder.parts.images import AUGMENTATIONS, MIXING
from builder.parts.presets import PRESETS, Preset
from builder.parts.training import TRAINING
from builder.runs import RunStore, StoreError
from builder.spec import Choice, Experiment, Problem
from pages.kit import draft as drafts
from pages.kit import examples, findings, forms, jobs, locks, style
from pages.kit.words import amount, plain

__all__ = ["SLOT", "card"]

SLOT = "augment"
"""Of the job that varies an example."""
_NUM_VARIED = 7  # with the scan itself: two rows
_COLUMNS = 3
_LAST = "varied-last"  # (id of the job whose pictures are shown, digest of what they are of)
_ABOUT = {
    "Geometry": "Composed into one movement, computed once; boxes and outlines move along.",
    "Intensity": "Exposure, focus and colour, as they differ from day to day.",
    "Scanner": "What the machine adds of its own.",
    "Erasing and mixing": "Harder scans: parts covered, or two in one.",
}
_CSS = """<style>
[class*=st-key-operation-] img,.st-key-stage img{image-rendering:pixelated;border-radius:.4rem}
[class*=st-key-operation-off-] img{opacity:.6;filter:saturate(.6)}
[class*=st-key-operation-off-]:hover img{opacity:1;filter:none}
[class*=st-key-operation-on-]{border-color:#4a78ef!important}
.st-key-stage [data-testid=stImage] img{box-shadow:0 0 0 1px rgba(128,128,128,.25)}
[class*=st-key-operation-] [data-testid=stElementToolbar],.st-key-stage [data-testid=stElementToolbar]{display:none}
</style>"""


def card(draft: drafts.Draft, found: findings.Findings) -> None:
    """The whole designer."""
    st.html(_CSS)
    with style.card("Augmentation", key="augmentation"):
        st.caption("In training each scan is varied at random each time it is seen; never in testing.")
        presets(draft, found)
        shown = stage(draft, found)
        told = [v for v in found.verdicts if v.path == "training.augment"]
        verdict(draft, told, [p for p in found.problems if p.path == "training.augment"])
        on = [AUGMENTATIONS[c.name].title for c in draft.experiment.training.augment if c.name in AUGMENTATIONS]
        st.markdown(" ".join(f":blue-badge[{plain(title)}]" for title in on) or ":gray[Nothing is switched on.]")
        groups = AUGMENTATIONS.groups
        for place, (group, parts) in zip(st.tabs(list(groups)), groups.items(), strict=True):
            with place:
                st.caption(_ABOUT[group])
                for number, column in enumerate(st.columns(_COLUMNS, gap="small")):
                    with column:
                        for part in parts[number::_COLUMNS]:
                            operation(draft, part, found, shown)
        forms.section(draft, "training", [TRAINING.param("border"), TRAINING.param("test_time")], found.problems)


# -- presets ----------------------------------------------------------------------------------------------------------


def presets(draft: drafts.Draft, found: findings.Findings) -> None:
    """Sets of augmentations to begin from; the one for scans like these is marked."""
    kind = kind_of(found.fingerprint, found.summary.name if found.summary else "")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption("Begin from", width="content")
        for preset in PRESETS:
            suits = kind in preset.kinds
            st.button(
                preset.title,
                key=f"preset-{preset.name}",
                help=preset.help + (" Suits these scans." if suits else ""),
                icon=":material/recommend:" if suits else None,
                type="secondary",
                on_click=drafts.spared(begin_from),
                args=(draft, preset),
            )


def begin_from(draft: drafts.Draft, preset: Preset) -> None:
    """Puts the preset in the place of what was chosen; what the task or the preparation refuses is left out."""

    def change(now: Experiment) -> Experiment:
        order = AUGMENTATIONS.names
        wanted = sorted((Choice(name=n, params=p) for n, p in preset.choices), key=lambda c: order.index(c.name))
        asked = now.replace("training.augment", wanted)
        refused = {p.path.split(".")[2] for p in findings.look(asked).errors if p.path.startswith("training.augment.")}
        return now.replace("training.augment", [c for c in wanted if c.name not in refused])

    draft.apply(change, f"augmentation: {preset.title.lower()}")


# -- operations -------------------------------------------------------------------------------------------------------


def operation(draft: drafts.Draft, part: Part, found: findings.Findings, shown: Shown | None) -> None:
    """One operation: its switch, what it does to the scan on show, how often and how much, and whether that is safe."""
    path = f"training.augment.{part.name}"
    chosen = any(c.name == part.name for c in draft.experiment.training.augment)
    with st.container(border=True, gap="xsmall", key=f"operation-{'on' if chosen else 'off'}-{part.name}"):
        key = f"switch:{part.name}"
        if st.session_state.get(key) != chosen:
            st.session_state[key] = chosen
        with locks.beside(draft, path, at_end=True):
            st.toggle(
                part.title, value=chosen, key=key, help=plain(part.help), on_change=switch, args=(draft, part.name)
            )
        if shown is not None:
            small(shown, part)
        if not chosen:
            if shown is None:
                st.caption(plain(part.help.split(". ")[0].rstrip(".") + "."))
            return
        chance = [p for p in part.params if p.name == "probability"]
        rest = [p for p in part.params if p.name != "probability"]
        forms.section(draft, path + ".params", [*chance, *rest], found.problems, num_columns=1)
        verdict(
            draft,
            [v for v in found.verdicts if v.path == path],
            [p for p in found.problems if p.path == path],
        )
        cost = shown.told.get("cost_ms", {}).get(part.name) if shown is not None else None
        if cost is not None:
            st.caption(f":material/timer: {cost:.2g} ms a scan")


def small(shown: Shown, part: Part) -> None:
    """What one operation does by itself to the scan on show."""
    if part.name in MIXING:
        mixed = shown.told.get("mixed", {}).get(part.name)
        names, words = ([mixed["picture"]], f"{mixed['share']:.0%} this scan") if mixed else ([], "")
    else:
        names, words = shown.told.get("operations", {}).get(part.name, []), ""
    files = [file for file in (shown.folder / name for name in names) if file.is_file()]
    if files:
        with st.container(horizontal=True, gap="xsmall"):
            for number, file in enumerate(files):
                st.image(file.read_bytes(), width=86, alt=f"{part.title}, example {number + 1}")
    if words:
        st.caption(words)


def verdict(draft: drafts.Draft, told: Iterable[Problem], wrong: Iterable[Problem]) -> None:
    """What is wrong with repairs, then what is unknown, then what was found to be in order."""
    forms.marks(draft, wrong)
    for problem in told:
        if problem.severity == "note":
            st.caption(f":material/help: {plain(problem.message)}")
        elif problem.severity == "fine":
            st.caption(f":green[:material/verified: {plain(problem.message)}]")


@drafts.spared
def switch(draft: drafts.Draft, name: str) -> None:
    """Turns an operation on with its defaults, or off; the order is the catalog's."""
    on, order = st.session_state[f"switch:{name}"], AUGMENTATIONS.names

    def change(now: Experiment) -> Experiment:
        old = now.training.augment
        if on == any(c.name == name for c in old):
            return now
        new = [*old, Choice(name=name)] if on else [c for c in old if c.name != name]
        new.sort(key=lambda c: order.index(c.name) if c.name in order else len(order))
        return now.replace("training.augment", new)

    title = AUGMENTATIONS[name].title if name in AUGMENTATIONS else name
    draft.apply(change, f"{title} {'on' if on else 'off'}")


# -- the scan on show -------------------------------------------------------------------------------------------------


class Shown:
    """The pictures of a finished job: `folder` and what the job `told`."""

    def __init__(self, folder: Path, told: dict[str, Any]) -> None:
        self.folder, self.told = folder, told


def stage(draft: drafts.Draft, found: findings.Findings) -> Shown | None:
    """One real training scan before and after all of it, made by a short job that follows the settings; returns what
    is on show."""
    if found.summary is None:
        st.caption("Choose scans, and one of them is shown here, varied.")
        return None
    with st.container(border=True, key="stage"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown("**On your scan**", width="content")
            live = bool(st.session_state.get("augment-live"))
            if not live:
                st.button(
                    "Show",
                    key="show-varied",
                    type="primary",
                    icon=":material/play_arrow:",
                    on_click=follow,
                    args=(draft,),
                )
            st.button("Other dice", key="vary-again", icon=":material/casino:", on_click=vary, args=(draft, True))
            st.button("Another scan", key="vary-another", icon=":material/radiology:", on_click=another, args=(draft,))
            if live:
                st.toggle("Live", key="augment-live", help="Follow every change of the settings.")
            st.caption(f"Seed {st.session_state.get('varied-seed', 0)}: the same seed, the same pictures.")
        refused = st.session_state.pop("varied-refused", "")
        if refused:
            st.markdown(f":red[{plain(refused)}]")
        shown = newest(draft)
        if shown is not None:
            pictures(shown, found)
        jobs.watch(SLOT, "Varying a scan")
    return shown


def newest(draft: drafts.Draft) -> Shown | None:
    """What is on show; where the settings have changed since, a job for the present ones is asked for (live), or it is
    said. Of which settings pictures are that were there before the page was reloaded, nobody knows any more."""
    job, told = jobs.of_slot(SLOT), jobs.result(SLOT)
    if job is not None and told is not None:
        st.session_state[_LAST] = (job.id, st.session_state.get("varied-of"))
    last = st.session_state.get(_LAST)
    if last is None:
        return None
    if last[1] != _digest(draft):
        working = job is not None and job.view().active
        if st.session_state.get("augment-live"):
            if not working and st.session_state.get("varied-of") != _digest(draft):
                vary(draft, False)
        else:
            since = "These may be of other settings" if last[1] is None else "The settings have changed since"
            st.caption(f":orange[{since}: press Show for the present ones.]")
    try:
        kept = RunStore(home()).job(last[0])
        result = kept.result()
    except StoreError:
        return None
    return None if result is None else Shown(kept.folder, result)


def pictures(shown: Shown, found: findings.Findings) -> None:
    """The scan as it was prepared, and varied by everything that is chosen."""
    told = shown.told
    marked = bool(told.get("marked")) and st.toggle("Boxes and outlines", value=True, key="varied-marked")
    stems = [told["before"], *told["after"]]
    names = [name.replace(".png", "-marked.png") if marked else name for name in stems]
    words = ["as prepared", *(f"{n}" for n in range(1, len(names)))]
    if told.get("boxes"):
        left = told.get("left") or []
        words = [words[0], *(f"{w} · {n} of {told['boxes']} boxes" for w, n in zip(words[1:], left, strict=False))]
    with st.container(horizontal=True, gap="small"):
        for name, caption in zip(names, words, strict=False):
            file = shown.folder / name
            if file.is_file():
                st.image(file.read_bytes(), width=144, caption=caption, alt=f"Training scan, {caption}")
    if "whole_ms" in told:
        each, batch = told["whole_ms"], told["batch"]
        epoch = ""
        if num := found.fingerprint.cases_per_split.get("train", 0) if found.fingerprint else 0:
            seconds = each * num / 1000
            epoch = f" An epoch of {amount(num, 'scan')}: {seconds:.2g} s."
        st.caption(
            f":material/timer: All of it together: {each:.2g} ms a scan, measured on a batch of {batch} on "
            f"{told['device']}.{epoch} Mixing is shown beside its switch."
        )


def _digest(draft: drafts.Draft) -> str:
    now = draft.experiment
    chosen = [c.model_dump_json() for c in now.training.augment]
    number = st.session_state.get("example-number", 0), st.session_state.get("varied-seed", 0)
    return f"{now.data.model_dump_json()}{chosen}{now.training.border}{number}"


def follow(draft: drafts.Draft) -> None:
    """Shows the present settings, and from now on every change of them."""
    st.session_state["augment-live"] = True
    vary(draft, False)


def another(draft: drafts.Draft) -> None:
    """Goes on to the next training scan."""
    st.session_state["example-number"] = st.session_state.get("example-number", 0) + 1
    vary(draft, False)


def vary(draft: drafts.Draft, other: bool) -> None:
    """Asks for the pictures of the present settings, with the same seed or the next one."""
    now = draft.experiment
    seed = st.session_state.get("varied-seed", 0) + int(other)
    st.session_state["varied-seed"] = seed
    found = findings.look(now)
    seen = (
        examples.example(found.summary, now.data, st.session_state.get("example-number", 0)) if found.summary else None
    )
    payload = {
        "dataset": now.data.dataset,
        "data": now.data.model_dump(mode="json"),
        "augment": [c.model_dump(mode="json") for c in now.training.augment if c.name in AUGMENTATIONS],
        "case": seen.index if seen else None,
        "seed": seed,
        "num": _NUM_VARIED,
        "border": now.training.border,
        "operations": True,
    }
    st.session_state["varied-of"] = _digest(draft)
    try:
        jobs.submit("augment", payload, SLOT)
    except StoreError as error:
        st.session_state["varied-refused"] = str(error)
