"""How does it learn? Preparation, augmentation, optimizer, schedule, brakes; what is wrong; and the start."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import streamlit as st

from builder.data import Dataset, UnknownDataset, datasets
from builder.execute import executor, home
from builder.parts.images import PREPARE
from builder.parts.training import AVERAGES, OPTIMIZERS, SCHEDULES, TRAINING
from builder.runs import StoreError
from builder.schedule import factor
from builder.spec import Data, Experiment, SpecError
from builder.task import TASKS, find, learned_cases, losses
from pages.kit import (
    audit,
    augmenting,
    beat,
    branching,
    charts,
    dropping,
    examples,
    findings,
    forms,
    go,
    groups,
    jobs,
    landscape,
    layers,
    locks,
    preflight,
    rate,
    style,
)
from pages.kit import draft as drafts
from pages.kit.machine import this_machine
from pages.kit.pairs import pairs
from pages.kit.words import amount, path_words, plain, size

_CSS = """<style>
[data-testid=stColumn]:has(> * > * > .st-key-start){position:sticky;top:3.2rem;align-self:flex-start;
 max-height:calc(100vh - 4.5rem);overflow-y:auto;padding-bottom:.5rem}
.st-key-example img{image-rendering:pixelated;border-radius:.4rem}
</style>"""

_SECTIONS = {
    "How long": ("epochs", "batch_size", "accumulate"),
    "Regularization": ("l2", "l1", "label_smoothing"),
    "Clipping": ("clip_norm", "clip_value"),
    "Stopping": ("monitor", "patience", "min_delta"),
}
_LOSS = ("balance",)
_LAYERS = ("backbone_rate",)  # drawn with the groups of layers
_AUGMENTING = ("border", "test_time")  # drawn with the augmentation
_OF_STACKS = ("num_slices", "slice_choice")
"""Settings that mean something only where the network sees several slices."""
_OF_PATCHES = ("num_patches",)
"""Settings that mean something only where patches are cut."""
_OF_BLOCKS = ("outlined_share", "pixel_mm", "slice_mm")
"""Settings that mean something only where patches are cut out of volumes."""
_OF_CHOICE = ("slice_choice",)
"""Settings that mean something only where some slices of a scan are chosen."""
_DRAWN_STEPS = 400
_AGAIN_S = 3.0  # two presses of Start within this time are one


def _params(names: Sequence[str]) -> list[Any]:
    return [TRAINING.param(name) for name in names]


def _rest() -> list[Any]:
    """Settings that no section names: a new entry of the catalog appears here by itself."""
    named = {name for names in _SECTIONS.values() for name in names} | {*_LOSS, *_AUGMENTING, *_LAYERS}
    return [p for p in TRAINING.params if p.name not in named]


def preparation(draft: drafts.Draft, found: findings.Findings) -> None:
    """Which scans, and how each becomes the network's input; beside it one of them as the network sees it."""
    with style.card("Preparation", key="preparation"):
        left, right = st.columns([3.4, 1], gap="medium")
        with left:
            dataset(draft, found)
            stacked = draft.experiment.data.layout != "maps"
            patched = draft.experiment.data.fit == "patches"
            left_out = (*(() if stacked else _OF_STACKS), *(() if patched else _OF_PATCHES))
            left_out += _OF_CHOICE if draft.experiment.data.blocks else _OF_BLOCKS
            params = [p for p in PREPARE.params if p.name not in left_out]
            forms.section(draft, "data", params, found.problems)
        with right, st.container(key="example", gap="xsmall"):
            shown(draft, found)


def dataset(draft: drafts.Draft, found: findings.Findings) -> None:
    """The choice of the data set."""
    known = {s.id: s for s in datasets(home())}
    now = draft.experiment.data.dataset
    options = [*known, *([now] if now and now not in known else [])]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if st.session_state.get("data.dataset") != (now or None):
            st.session_state["data.dataset"] = now or None
        st.selectbox(
            "Scans",
            options,
            index=options.index(now) if now else None,
            key="data.dataset",
            placeholder="Choose a data set" if known else "No data set on this machine yet",
            format_func=lambda id: _dataset_words(known.get(id), id),
            on_change=choose_dataset,
            args=(draft,),
        )
        if st.button("Data", key="to-data", icon=":material/radiology:", help="Import scans, look at them"):
            go.to("data")
    forms.marks(draft, forms.problems_at(found.problems, "data.dataset"))
    audit.consent(draft, found)


def _dataset_words(summary: Any, id: str) -> str:
    if summary is None:
        return f"{id} (not on this machine)"
    return f"{summary.name} ({amount(summary.num_cases, 'scan')}{', synthetic' if summary.synthetic else ''})"


@drafts.spared
def choose_dataset(draft: drafts.Draft) -> None:
    """Writes the chosen data set into the document."""
    chosen = st.session_state["data.dataset"] or ""
    if chosen and chosen not in {s.id for s in datasets(home())}:
        return  # its words have changed meanwhile: scans were added; the next draw says what is chosen
    if chosen != draft.experiment.data.dataset:
        draft.replace("data.dataset", chosen, "choose scans")


def shown(draft: drafts.Draft, found: findings.Findings) -> None:
    """A training scan, prepared."""
    data = draft.experiment.data
    if found.summary is None:
        st.caption("Choose scans, and one of them is shown here as the network will see it.")
        return
    if any(
        p.path.startswith("data.") and p.path not in ("data.dataset", "data.leaks") and p.severity == "error"
        for p in found.problems
    ):
        st.caption("The example appears once the preparation is in order.")
        return
    number = st.session_state.get("example-number", 0)
    seen = examples.example(found.summary, data, number)
    if seen is None:
        st.caption("The data set has no training scan.")
        return
    many = f"{data.num_slices} slices of " if seen.slices else ""
    if not seen.pictures:
        st.markdown(f":red[{plain(seen.problem)}]")
    else:
        shown_slice(seen)
    label = f"**{plain(seen.label)}** · " if seen.label else ""
    became = f"prepared to {many}{data.size_px} x {data.size_px} px"
    if data.blocks:
        kept = f"brought to {seen.after}" if seen.after else "kept as it is"
        became = f"{kept}; patches of {many}{data.size_px} x {data.size_px} px are cut out of it"
    st.caption(f"{label}{seen.before}, {became}")
    st.button("Another scan", key="another-example", icon=":material/casino:", type="tertiary", on_click=another)


def shown_slice(seen: examples.Example) -> None:
    """The example's picture; of several slices the one that the slider says."""
    place, count = 0, len(seen.pictures)
    if seen.slices:
        if not 1 <= st.session_state.get("example-slice", 0) <= count:
            st.session_state["example-slice"] = count // 2 + 1  # before the slider is drawn: fewer slices than before
        place = st.slider("Slice", 1, count, st.session_state["example-slice"], key="example-slice") - 1
        which = seen.slices[place]
        st.caption(f"Slice {which} of the scan" if which else "Black: the scan has no slice here")
    st.image(seen.pictures[place], width="stretch", alt="A training scan as the network sees it")


def another() -> None:
    """Goes on to the next example."""
    st.session_state["example-number"] = st.session_state.get("example-number", 0) + 1


def recipe(draft: drafts.Draft, found: findings.Findings) -> None:
    """How it learns: what everybody sets first, the rest in tabs of its own."""
    with style.card("Recipe", key="recipe"):
        tabs = st.tabs(
            [
                ":material/footprint: Steps",
                ":material/shield: Regularization",
                ":material/balance: Classes and loss",
                ":material/layers: Layers",
                ":material/flag: Stopping",
                ":material/memory: Machine",
                ":material/landscape: For learners",
            ],
            key="recipe-tabs",
        )
        with tabs[0]:
            steps(draft, found)
        with tabs[1]:
            regularization(draft, found)
        with tabs[2]:
            loss(draft, found)
        with tabs[3]:
            st.caption("Some layers may learn faster or slower, or be braked more or less, than the rest.")
            groups.groups(draft, found)
        with tabs[4]:
            forms.section(draft, "training", _params(_SECTIONS["Stopping"]), found.problems)
        with tabs[5]:
            forms.section(draft, "training", _rest(), found.problems)
        with tabs[6]:
            if st.toggle("Show how optimizers walk", key="toy-shown"):
                landscape.toy(draft)


def steps(draft: drafts.Draft, found: findings.Findings) -> None:
    """How long, how a step is taken, and how its size changes over the training."""
    forms.section(draft, "training", _params(_SECTIONS["How long"]), found.problems, num_columns=3)
    left, right = st.columns(2, gap="medium")
    with left:
        forms.choice(draft, "training.optimizer", OPTIMIZERS, found.problems, label="Optimizer")
    with right:
        forms.choice(draft, "training.schedule", SCHEDULES, found.problems, label="Learning rate schedule")
    curve(draft, found)
    rate.finder(draft, found)


def curve(draft: drafts.Draft, found: findings.Findings) -> None:
    """The learning rate over the whole training, before it begins."""
    import plotly.graph_objects as go_

    training = draft.experiment.training
    if found.about("training.schedule", "training.optimizer", "training.epochs", "training.average"):
        return
    full = training.optimizer.params.get("lr", OPTIMIZERS[training.optimizer.name].defaults["lr"])
    each = steps_per_epoch(draft, found) or 20
    total = training.epochs * each
    marks = sorted({round(k * (total - 1) / (_DRAWN_STEPS - 1)) for k in range(_DRAWN_STEPS)}) if total > 1 else [0]
    values = [full * factor(training.schedule, step, training.epochs, each, training.average) for step in marks]
    line = {"color": charts.palette()[0], "width": 2.4}
    figure = go_.Figure(go_.Scatter(x=[m / each for m in marks], y=values, mode="lines", line=line))
    figure.update_layout(
        height=190,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        xaxis={"title": "Epoch", "range": [0, training.epochs]},
        yaxis={"title": "Learning rate", "rangemode": "tozero", "exponentformat": "power"},
    )
    st.plotly_chart(
        figure, key="schedule-curve", config={"displayModeBar": False}, alt="The learning rate over the training"
    )
    if training.average.name == "swa":
        st.caption("The straight part at the end is where the weights are averaged (SWA).")
    if training.schedule.name == "plateau":
        st.caption("Drawn as if the validation loss improved all the time: each wait without a gain lowers the rate.")


def steps_per_epoch(draft: drafts.Draft, found: findings.Findings) -> int:
    """Optimizer steps of an epoch, as `builder.batches.updates` makes them; 0 while they cannot be told."""
    training, num = draft.experiment.training, training_scans(found)
    if not num or training.batch_size < 1 or training.accumulate < 1:
        return 0
    batches = ceil(num / training.batch_size)
    if batches > 1 and training.batch_size > 1 and num % training.batch_size == 1:
        batches -= 1  # a scan that is left over joins the batch before
    return ceil(batches / training.accumulate)


def training_scans(found: findings.Findings) -> int:
    """How many scans training learns from: those of its split that carry a label, each once, or as often as patches are
    cut out of it in an epoch."""
    now = found.experiment
    if found.summary is None or now.task not in TASKS:
        return 0
    return _num_training(found.summary.id, found.summary.changed, now.task, now.data.model_dump_json())


@st.cache_data(max_entries=16, show_spinner=False)
def _num_training(dataset: str, changed: float, task: str, data: str) -> int:
    try:
        opened, chosen = Dataset.open(home(), dataset), Data.model_validate_json(data)
        cases = learned_cases(find(task), opened, Experiment(task=task, data=chosen))
    except (UnknownDataset, OSError, ValueError):
        return 0
    num = sum(opened.cases[i].shape[0] for i in cases) if chosen.slices == "each" else len(cases)
    return num * chosen.num_patches if chosen.fit == "patches" else num


def regularization(draft: drafts.Draft, found: findings.Findings) -> None:
    """Brakes against learning by heart."""
    st.markdown("**Drop**")
    dropping.sliders(draft, found)
    st.markdown("**Penalties and labels**")
    forms.section(draft, "training", _params(_SECTIONS["Regularization"]), found.problems, num_columns=3)
    st.markdown("**Calm steps**")
    forms.section(draft, "training", _params(_SECTIONS["Clipping"]), found.problems)
    forms.choice(draft, "training.average", AVERAGES, found.problems, label="Average of the weights")


def loss(draft: drafts.Draft, found: findings.Findings) -> None:
    """What a wrong answer costs, and what is done for rare classes."""
    offered = losses(draft.experiment.task)
    left, right = st.columns([1, 1.25], gap="medium")
    with left:
        if len(offered) > 1:
            forms.choice(draft, "training.loss", offered, found.problems, label="Loss")
        forms.section(draft, "training", _params(_LOSS), found.problems, num_columns=1)
    counts = found.fingerprint.class_counts if found.fingerprint else {}
    with right:
        if counts:
            task, training = draft.experiment.task, draft.experiment.training
            if task in TASKS and "class" in find(task).learns:  # what teaches boxes or pictures prefers no class
                several = found.fingerprint is not None and found.fingerprint.multi_label
                for words in balance_words(counts.get("train", {}), training.balance, training.loss.name, several):
                    st.caption(plain(words))
            names = {"train": "training", "val": "validation", "test": "test"}
            rows = [
                f"| {plain(name)} | " + " | ".join(str(counts.get(s, {}).get(name, 0)) for s in names) + " |"
                for name in counts["train"]
            ]
            st.markdown("| Class | " + " | ".join(names.values()) + " |\n|:--|--:|--:|--:|\n" + "\n".join(rows))


def balance_words(counts: Mapping[str, int], balance: str, loss: str, several: bool) -> list[str]:
    """What the counts of the training side mean, and what the choices of `balance` and `loss` do about them.

    Args:
        several: a scan may carry several labels, each of which is told from its own absence (`losses.of_classes`).
    """
    known = {name: count for name, count in counts.items() if count}
    if len(known) < 2:
        return []
    rare, common = min(known, key=lambda n: known[n]), max(known, key=lambda n: known[n])
    times, total = known[common] / known[rare], sum(known.values())
    said = [f"The commonest class, {common}, has {times:.1f} times the training scans of the rarest, {rare}."]
    if balance == "weights" and several:
        said.append("With weights, the scans that carry a label weigh as much as those that do not, label by label.")
    elif balance == "sampler" and several:
        said.append(
            "With the sampler, a scan counts as the rarest of its labels, and each of these comes equally often."
        )
    elif balance == "weights":
        said.append(f"With weights, a mistake on {rare} costs {times:.1f} times one on {common}.")
    elif balance == "sampler":
        again = total / len(known) / known[rare]
        said.append(
            f"With the sampler, every class comes about {total // len(known)} times in an epoch of {total}: each "
            f"scan of {rare} about {again:.1f} times, of {common} {total / len(known) / known[common]:.1f} times."
        )
    elif loss == "focal":
        said.append("The focal loss turns down what is right already; nothing else is done about it.")
    elif times > 2:
        said.append("Nothing is done about it: the network may prefer the common one. The focal loss is another way.")
    return said


@drafts.spared
def rename(draft: drafts.Draft) -> None:
    """Writes the name of the run."""
    wanted = st.session_state["name"].strip()
    if not wanted or wanted == draft.experiment.name:
        return
    try:
        draft.replace("name", wanted)
    except SpecError as error:
        st.session_state["start-refused"] = str(error)


def pre_flight(draft: drafts.Draft, found: findings.Findings, hindered: bool = False) -> None:
    """What will run, what it costs, what is in the way; and the start."""
    now = draft.experiment
    wrong = [p for p in found.problems if not p.path.startswith("search")]  # a run is no search: they are for its page
    with st.container(key="start", border=True):
        st.subheader("Before the start", anchor=False)
        if st.session_state.get("name") != now.name:
            st.session_state["name"] = now.name
        st.text_input("Name of the run", value=now.name, key="name", max_chars=120, on_change=rename, args=(draft,))
        costs(draft, found)
        preflight.check(draft, found)
        for heading, severity in (("In the way", "error"), ("To think about", "warning")):
            faults = [p for p in wrong if p.severity == severity]
            if faults:
                st.markdown(f"**{heading}**")
                for number, problem in enumerate(faults):
                    st.caption(plain(path_words(problem.path)))
                    findings.repairs(draft, [problem], f"start-{number}-{severity}")
        refused = st.session_state.pop("start-refused", "")
        if refused:
            st.markdown(f":red[:material/error: {plain(refused)}]")
        blocked = sum(p.severity == "error" for p in wrong)
        branched = bool(branching.origin(draft))
        pressed = st.button(
            "Start the branch" if branched else "Start training",
            key="start-training",
            type="primary",
            icon=":material/play_arrow:",
            width="stretch",
            disabled=bool(blocked) or hindered,
        )
        if blocked:
            st.caption(f"It can start once {amount(blocked, 'thing')} above {'is' if blocked == 1 else 'are'} mended.")
        elif hindered:
            st.caption("It can start once what the head of this page says of the branch is mended.")
        elif wrong:
            st.caption("It may start; the warnings are for you to judge.")
        else:
            st.caption(":green[:material/check_circle:] Everything is in order.")
    if pressed:
        start(draft)


def costs(draft: drafts.Draft, found: findings.Findings) -> None:
    """The run in numbers."""
    training, planned = draft.experiment.training, found.plan
    steps = steps_per_epoch(draft, found)
    rows = [
        ("Parameters", layers.count(planned.parameters)),
        ("Memory to train", f"about {size(planned.training_bytes(max(1, training.batch_size)))}"),
        ("Computes on", this_machine().words),
    ]
    if steps:
        num = training_scans(found)
        rows = [
            ("Training patches" if draft.experiment.data.fit == "patches" else "Training scans", f"{num:,}"),
            ("Steps", f"{training.epochs * steps:,}"),
            ("Work an epoch", layers.operations(3 * planned.flops * num)),
            *rows,
        ]
    pairs(rows)


def start(draft: drafts.Draft) -> None:
    """Puts the experiment into the queue and goes where it can be watched. A double click starts one run."""
    now = draft.experiment.model_copy(update={"search": None})
    digest, at, id = st.session_state.get("last-start", ("", 0.0, ""))
    if digest == now.digest and time.monotonic() - at < _AGAIN_S:
        go.to("runs", run=id)
    try:
        run = branching.start(draft, now)
        preflight.keep(run, now)
        st.session_state["last-start"] = (now.digest, time.monotonic(), run.id)
        executor(home()).ensure()
    except StoreError as error:
        st.session_state["start-refused"] = str(error)
        st.rerun()
    go.to("runs", run=run.id)


def nothing_open() -> None:
    """No experiment yet: what to do."""
    style.heading("Training", "How does it learn?")
    with style.empty(
        "model_training",
        "No experiment is open",
        "An experiment is a network and the way it learns. Begin from a ready one; every setting has a good default.",
    ):
        first = findings.starters("")[0]
        st.button(
            f"Begin with {first.name}",
            type="primary",
            key="first-starter",
            icon=":material/auto_awesome:",
            on_click=findings.begin,
            args=(first,),
        )
        if st.button("Home", key="to-home", icon=":material/home:"):
            go.to("home")


def page(draft: drafts.Draft) -> None:
    """The page."""
    found = findings.look(draft.experiment)
    with style.heading("Training", "How does it learn?"):
        if st.button("Back to the network", key="to-network", icon=":material/account_tree:"):
            go.to("network")
    hindered = bool(branching.banner(draft))
    left, right = st.columns([2.75, 1], gap="medium")
    with left:
        preparation(draft, found)
        augmenting.card(draft, found)
        recipe(draft, found)
        beat.card(found.summary, draft.experiment.task)
    with right:
        pre_flight(draft, found, hindered)


st.html(_CSS)
locks.dress()
jobs.keep_in_url(augmenting.SLOT)
jobs.keep_in_url(preflight.SLOT)
jobs.keep_in_url(rate.SLOT)
opened = drafts.current()
if opened is None:
    nothing_open()
else:
    page(opened)
