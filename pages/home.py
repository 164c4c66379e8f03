"""Where was I? Runs that go on, experiments to take up again, four tasks to try, other ways to begin, this machine."""

from __future__ import annotations

import streamlit as st

from builder.data import Dataset, UnknownDataset, datasets
from builder.execute import home
from builder.runs import Run, RunStore, StoreError
from builder.spec import Experiment, SpecError
from builder.task import TASKS, find
from pages.kit import curves, draft, go, jobs, style
from pages.kit.draft import Draft, DraftMissing
from pages.kit.machine import free_disk_bytes, memory_words, this_machine
from pages.kit.run_groups import own
from pages.kit.run_list import name_of, view_of
from pages.kit.words import ago, amount, duration, plain, size

NUM_RECENT = 6
DEMO = "demo"  # slot of the job that makes a demo set


def try_it(task: str, kind: str) -> None:
    """Opens the starter for a demo set on such a set: the one that is there, else one that a job makes now.

    Args:
        kind: of the demo set; "" for the task's first.
    """
    name = find(task).demo_name(kind)
    made = next((s for s in datasets(home()) if s.synthetic and s.task == task and s.name == name), None)
    if made is not None:
        open_demo(made.id)
        return
    try:
        jobs.submit("demo", {"task": task, "seed": 0} | ({"kind": kind} if kind else {}), DEMO)
    except StoreError as error:
        st.session_state["home-error"] = str(error)


def open_demo(dataset: str) -> None:
    """Makes the draft for a demo set; the page then goes on to Training."""
    summary = next((s for s in datasets(home()) if s.id == dataset), None)
    task = find(summary.task if summary and summary.task in TASKS else TASKS.names[0])
    known = {task.demo_name(kind): kind for kind in task.demos}
    name = task.demos[known.get(summary.name if summary else "", next(iter(task.demos)))]
    starter = next(s for s in task.starters() if s.name == name)
    go.begin(starter.replace("name", f"Demo: {name}"), dataset, "demo")
    st.session_state["go-on"] = "training"


def arrive() -> None:
    """Goes on where a button pointed to, or where a finished demo job leads."""
    result = jobs.result(DEMO)
    if result is not None:
        jobs.forget(DEMO)
        open_demo(str(result["dataset"]))
    target = st.session_state.pop("go-on", "")
    if target:
        chosen = st.session_state.get(draft.PARAM, "")
        go.to(target if go.exists(target) else "data", **({draft.PARAM: chosen} if chosen else {}))


def open_starter() -> None:
    """Begins with the chosen starter, on the newest dataset if there is one."""
    chosen = st.session_state["starter"]
    starter = go.starters()[chosen]
    go.begin(starter, go.newest(datasets(home()), starter), f"starter {chosen}")
    st.session_state["go-on"] = "network"


def load_experiment() -> None:
    """Begins with a saved experiment file; what is wrong with it is said in a sentence."""
    came = st.session_state.get("experiment-file")
    if came is None:
        return
    try:
        go.begin(Experiment.loads(came.getvalue()), words="loaded from a file")
    except (SpecError, UnicodeDecodeError) as error:
        st.session_state["home-error"] = str(error)
        return
    st.session_state["go-on"] = "network"


def show_runs(runs: list[Run], was_active: bool) -> None:
    """One line a run; redrawn by itself while one is at work."""
    views = [(run, view_of(run)) for run in runs]
    if was_active and not any(view.active for _, view in views):
        st.rerun()
    for run, view in views:
        with st.container(border=True, horizontal=True, vertical_alignment="center", key=f"run-{run.id}"):
            st.markdown(f"**{plain(name_of(run))}**", width="stretch")
            st.markdown(style.badge(view.status), width="content")
            facts = [curves.best_words(view), f"epoch {view.epoch} of {view.epochs}", duration(view.seconds)]
            st.caption(plain(" · ".join(filter(None, facts))), width="content")
            if st.button("Watch" if view.active else "Open", key=f"open-{run.id}", icon=":material/show_chart:"):
                go.to("runs", run=run.id)
        if view.reason and not view.active:
            st.caption(f":material/subdirectory_arrow_right: {plain(view.reason)}")


def recent_runs(runs: list[Run]) -> None:
    """The newest runs, with a fragment only while one of them is at work."""
    st.subheader("Runs", anchor=False)
    active = any(view_of(run).active for run in runs)
    if active:
        st.fragment(run_every=1.5, key="home-runs")(show_runs)(runs, True)
    else:
        show_runs(runs, False)


def recent_drafts() -> None:
    """Experiments one was working on, each with a button to take it up again."""
    found = draft.recent(NUM_RECENT)
    if not found:
        return
    st.subheader("Experiments", anchor=False)
    for entry in found:
        with st.container(border=True, horizontal=True, vertical_alignment="center", key=f"draft-{entry.id}"):
            st.markdown(f"**{plain(entry.name)}**", width="stretch")
            st.caption(
                f"{TASKS[entry.task].title if entry.task in TASKS else entry.task} · {ago(entry.at)}", width="content"
            )
            if st.button("Open", key=f"edit-{entry.id}", icon=":material/edit:"):
                draft.choose(Draft.open(entry.id))
                st.session_state["go-on"] = "network"
                st.rerun()
            text = Draft.open(entry.id).experiment.dumps()
            st.download_button(
                "Save",
                text,
                f"{entry.name}.json",
                "application/json",
                key=f"save-{entry.id}",
                icon=":material/download:",
                help="Download this experiment as a JSON file",
                on_click="ignore",
            )
            if st.button("Delete", key=f"remove-{entry.id}", icon=":material/delete:", type="tertiary"):
                confirm_delete(entry.id, entry.name)


def remove(id: str) -> None:
    """Deletes a draft; one that another tab has deleted meanwhile is gone, which is what was wanted."""
    if st.session_state.get(draft.PARAM) == id:
        draft.choose(None)
    try:
        Draft.open(id).delete()
    except DraftMissing:
        return


@st.dialog("Delete this experiment?")
def confirm_delete(id: str, name: str) -> None:
    """Asks before a draft goes; runs made from it are not touched."""
    st.write(f"**{plain(name)}** and its undo history go. Runs that were started from it stay.")
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button("Keep it"):
            st.rerun()
        if st.button("Delete", type="primary", key="really-delete", on_click=remove, args=(id,)):
            st.rerun()


_ICONS = {"class": "category", "boxes": "select_all", "outline": "gesture", "picture": "auto_fix_high"}
"""By what a person says of a scan (`Task.label_kind`)."""


def try_one(first_time: bool) -> None:
    """One card a task: what it does, and a demo that trains in three clicks."""
    st.subheader("Try it", anchor=False)
    st.caption("A small synthetic set, made here in seconds, and a network that learns it in a minute or two.")
    with st.container(key="ways-tries"):
        places = st.columns(len(TASKS), gap="small")
    busy = jobs.of_slot(DEMO) is not None
    for number, (place, task) in enumerate(zip(places, go.tasks(), strict=True)):
        with place, style.card(height="stretch", key=f"task-{task.name}"):
            st.markdown(f"#### :material/{_ICONS.get(task.label_kind, 'radiology')}: {plain(task.title)}")
            st.caption(plain(TASKS[task.name].help))
            with st.container(key=f"tries-{task.name}", gap="xsmall"):
                for kind in task.demos:
                    first = kind == next(iter(task.demos))
                    st.button(
                        "Try it" if first else f"Try {kind}",
                        key=f"try-{task.name}" + ("" if first else f"-{kind}"),
                        icon=":material/play_arrow:" if first else ":material/burst_mode:",
                        type=("primary" if first_time and not number else "secondary") if first else "tertiary",
                        width="stretch",
                        help=None if first else plain(task.when[task.demos[kind]]),
                        on_click=try_it,
                        args=(task.name, "" if first else kind),
                        disabled=busy,
                    )


def other_ways() -> None:
    """Own scans, a starter, a file: one card each."""
    st.subheader("Begin with your own", anchor=False)
    with st.container(key="ways"):
        one, two, three = st.columns(3, gap="small")
    with one, style.card("Your scans", height="stretch"):
        st.caption("DICOM, NIfTI, NRRD, PNG, JPEG, TIFF, zip: dropped here, or from a folder of this machine.")
        if st.button("Import scans", key="to-import", icon=":material/upload_file:", width="stretch"):
            go.to("data", **{"import": "1"})
    with two, style.card("A starter", height="stretch"):
        st.caption("A ready network to change as you like, from tiny to pretrained.")
        task = TASKS.names[0]
        if len(TASKS) > 1:
            task = st.selectbox(
                "What shall be learned?",
                TASKS.names,
                key="starter-task",
                format_func=lambda name: TASKS[name].title,
                label_visibility="collapsed",
            )
        names = [starter.name for starter in find(task).starters()]
        st.selectbox("Starter", names, key="starter", label_visibility="collapsed")
        st.button("Open", key="open-starter", icon=":material/account_tree:", width="stretch", on_click=open_starter)
    with three, style.card("A saved experiment", height="stretch"):
        st.caption("A JSON file that you or somebody else saved.")
        st.file_uploader(
            "Experiment file (JSON)",
            type="json",
            key="experiment-file",
            max_upload_size=2,
            on_change=load_experiment,
            label_visibility="collapsed",
        )


def what_is_here() -> None:
    """This machine and what lies on it, in numbers."""
    machine = this_machine()
    found = datasets(home())
    num_cases = sum(entry.num_cases for entry in found)
    style.facts(
        [
            (
                "Computes on",
                "GPU" if machine.gpus else "Processor",
                machine.gpus[0] if machine.gpus else machine.processor,
            ),
            ("Processor cores", str(machine.num_cores), machine.processor),
            ("Memory", memory_words(), "Of this machine, all programs together"),
            ("Free disk", size(free_disk_bytes(home())), "On the disk of ScanLoom's data folder"),
            ("Datasets", f"{len(found)}", f"{amount(num_cases, 'scan')} in all"),
        ]
    )


jobs.keep_in_url(DEMO)
arrive()
own_runs = own(RunStore(home()).runs())[:NUM_RECENT]
newcomer = not own_runs and not draft.recent(1)
actions = style.heading(
    "Teach a network to read scans" if newcomer else "Where was I?",
    "Bring scans, click a network together, watch it learn, test it. Everything stays on this machine.",
)
open_draft = draft.current()
if open_draft is not None:
    with actions:
        if st.button("Continue", type="primary", icon=":material/arrow_forward:", key="continue"):
            try:
                Dataset.open(home(), open_draft.experiment.data.dataset)
                go.to("network" if go.exists("network") else "data")
            except UnknownDataset:
                go.to("data")
error = st.session_state.pop("home-error", "")
if error:
    st.error(plain(error), icon=":material/error:")
jobs.watch(DEMO, "Making the demo set")
if not newcomer:
    if own_runs:
        recent_runs(own_runs)
    recent_drafts()
try_one(newcomer)
other_ways()
st.subheader("This machine", anchor=False)
what_is_here()
