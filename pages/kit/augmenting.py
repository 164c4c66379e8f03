"""The augmentation designer: what is varied, how often and how much, what it does to a scan of one's own, and whether
the labels stay true."""

from __future__ import annotations

import streamlit as st

from builder.catalog import Part
from builder.parts.images import AUGMENTATIONS
from builder.parts.training import TRAINING
from builder.runs import StoreError
from builder.spec import Choice, Experiment
from pages.kit import draft as drafts
from pages.kit import examples, findings, forms, jobs, style
from pages.kit.words import plain

__all__ = ["SLOT", "card"]

SLOT = "augment"
"""Of the job that varies an example."""
_NUM_VARIED = 5  # with the original six: one row


def card(draft: drafts.Draft, found: findings.Findings) -> None:
    """Every variation with its switch; the settings of those that are on."""
    with style.card("Augmentation", key="augmentation"):
        st.caption(
            "In training, each scan is varied at random each time it is seen; labels stay true. Never in testing."
        )
        forms.section(draft, "training", [TRAINING.param("border"), TRAINING.param("test_time")], found.problems)
        groups = AUGMENTATIONS.groups
        for place, (group, parts) in zip(st.columns(len(groups), gap="medium"), groups.items(), strict=True):
            with place:
                st.markdown(f"**{group}**")
                for part in parts:
                    operation(draft, part, found)
        gallery(draft, found)


def operation(draft: drafts.Draft, part: Part, found: findings.Findings) -> None:
    """One variation."""
    path = f"training.augment.{part.name}"
    chosen = any(c.name == part.name for c in draft.experiment.training.augment)
    key = f"switch:{part.name}"
    if st.session_state.get(key) != chosen:
        st.session_state[key] = chosen
    st.toggle(part.title, value=chosen, key=key, help=plain(part.help), on_change=switch, args=(draft, part.name))
    if chosen:
        forms.marks(draft, forms.problems_at(found.problems, path))
        with st.container(border=True, gap="xsmall", key=f"settings-{part.name}"):
            forms.section(draft, path + ".params", part.params, found.problems, num_columns=min(2, len(part.params)))


@drafts.spared
def switch(draft: drafts.Draft, name: str) -> None:
    """Turns a variation on with its defaults, or off; the order is the catalog's."""
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


def gallery(draft: drafts.Draft, found: findings.Findings) -> None:
    """One real training scan before and after, made by a short job."""
    now = draft.experiment
    if found.summary is None or not now.training.augment:
        return
    st.markdown("**What this does to a training scan**")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Show", key="show-varied", icon=":material/grid_view:", on_click=vary, args=(draft, False))
        st.button("Other dice", key="vary-again", icon=":material/casino:", on_click=vary, args=(draft, True))
        st.caption(f"Seed {st.session_state.get('varied-seed', 0)}: the same seed gives the same pictures.")
    refused = st.session_state.pop("varied-refused", "")
    if refused:
        st.markdown(f":red[{plain(refused)}]")
    job = jobs.of_slot(SLOT)
    jobs.watch(SLOT, "Varying a scan")
    result = jobs.result(SLOT)
    if job is None or result is None:
        return
    if st.session_state.get("varied-of") not in (None, _augment_digest(draft)):
        st.caption(":orange[The settings have changed since: press Show for the present ones.]")
    names = [("as prepared", result["before"]), *((f"{k}", name) for k, name in enumerate(result["after"], 1))]
    with st.container(key="gallery", horizontal=True, gap="small"):
        for words, name in names:
            file = job.folder / name
            if file.is_file():
                st.image(file.read_bytes(), width=96, caption=words, alt=f"Training scan, {words}")


def _augment_digest(draft: drafts.Draft) -> str:
    now = draft.experiment
    return f"{now.data.model_dump_json()}{[c.model_dump_json() for c in now.training.augment]}"


def vary(draft: drafts.Draft, other: bool) -> None:
    """Asks for the gallery of the present settings, with the same seed or the next one."""
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
        "augment": [c.model_dump(mode="json") for c in now.training.augment],
        "case": seen.index if seen else None,
        "seed": seed,
        "num": _NUM_VARIED,
    }
    try:
        jobs.submit("augment", payload, SLOT)
    except StoreError as error:
        st.session_state["varied-refused"] = str(error)
        return
    st.session_state["varied-of"] = _augment_digest(draft)
