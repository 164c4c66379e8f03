"""Which scans? Import, the ledger of every file, the fingerprint, the split by patient, and a look at them."""

from __future__ import annotations

import streamlit as st

from builder.data import Dataset, Entry, Summary, UnknownDataset, datasets, delete
from builder.execute import home
from builder.runs import StoreError
from builder.spec import SpecError
from pages.kit import address, annotating, audit, draft, go, importing, jobs, scans, style, viewer
from pages.kit import datasets as shown
from pages.kit.words import ago, amount, plain, size

DEMO = "demo-set"
NUM_A_PAGE = 24
STATUSES = ("refused", "repaired", "accepted", "skipped")  # what a person should look at first comes first


def ask_import() -> None:
    """Opens the import form."""
    address.put("import", "1")


def make_demo(task: str, kind: str) -> None:
    """Starts the job that makes a synthetic set of a task; `kind` "" is its first."""
    try:
        jobs.submit("demo", {"task": task, "seed": 0} | ({"kind": kind} if kind else {}), DEMO)
    except StoreError as error:
        st.session_state["data-error"] = str(error)


def demo_choice() -> None:
    """A button a demo set, under one button of their own."""
    with st.popover("Make a demo set", icon=":material/science:", key="make-demo"):
        for task, kind in go.demos():
            st.button(
                plain(f"{task.title}{f': {kind}' if kind else ''}"),
                key=f"make-demo-{task.name}" + (f"-{kind}" if kind else ""),
                type="tertiary",
                on_click=make_demo,
                args=(task.name, kind),
            )


def job_at_work(slot: str) -> bool:
    """Whether the slot's job is still going on."""
    job = jobs.of_slot(slot)
    return job is not None and job.view().active


def take_results() -> None:
    """Opens what a finished import or demo job made, and keeps its counts for one showing."""
    for slot in (importing.SLOT, DEMO):
        result = jobs.result(slot)
        if result is not None:
            jobs.forget(slot)
            st.session_state["import-counts"] = result
            if slot == importing.SLOT:
                importing.assign_names(str(result["dataset"]))
            address.put("dataset", str(result["dataset"]))
            address.drop("import")


def use(dataset: str) -> None:
    """Puts a dataset into the open experiment where that is of its task, else begins one that suits it."""
    open_draft = draft.current()
    summary = next((s for s in datasets(home()) if s.id == dataset), None)
    if summary is None:  # another tab has deleted it
        return
    try:
        if open_draft is None or open_draft.experiment.task != summary.task:
            starter = go.suited(summary)
            go.begin(starter, dataset, f"starter {starter.name}")
        else:
            open_draft.replace("data.dataset", dataset, "other scans")
    except SpecError as error:
        st.session_state["data-error"] = str(error)
        return
    st.session_state["leave-for"] = "network"


def remove(dataset: str) -> None:
    """Deletes a dataset; one that another tab has deleted meanwhile is gone, which is what was wanted."""
    address.drop("dataset")
    try:
        delete(home(), dataset)
    except UnknownDataset:
        return


@st.dialog("Delete this dataset?")
def confirm_delete(summary: Summary) -> None:
    """Asks before scans go for good."""
    st.write(
        f"**{plain(summary.name)}** with {amount(summary.num_cases, 'scan')} ({size(summary.bytes)}) is removed from "
        "this machine. The files it was imported from are not touched. Runs trained on it keep their networks."
    )
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button("Keep it"):
            st.rerun()
        if st.button("Delete", type="primary", key="really-delete", on_click=remove, args=(summary.id,)):
            st.rerun()


@st.dialog("Scan", width="large")
def look(dataset: Dataset, index: int) -> None:
    """Shows one case large."""
    case = dataset.cases[index]
    label = plain(shown.label_words(dataset, case.label))
    st.markdown(f"**{label}** · {shown.SPLIT_WORDS[case.split]} · {case.id}")
    viewer.show(dataset, index, f"case-{dataset.id}-{index}", height=600)
    viewer.tell_facts(dataset.scan(index))


def nothing_yet() -> None:
    """The empty page: two ways on, and real scans to look at meanwhile."""
    with style.empty(
        "radiology",
        "No scans yet",
        "Import your own DICOM, NIfTI, NRRD or picture files, or have a small synthetic set drawn.",
    ):
        st.button("Import scans", type="primary", icon=":material/upload_file:", on_click=ask_import, key="ask-import")
        demo_choice()
    found = scans.samples()
    if found:
        with style.card("A real scan to look at"):
            st.caption("From the test files of pydicom, the library that reads DICOM here.")
            name = st.segmented_control("Scan", list(found), default=next(iter(found)), key="sample", required=True)
            viewer.show_sample(name, f"sample-{name}", height=420)
            viewer.tell_facts(found[name])


def counts_of_import(dataset: Dataset) -> None:
    """What the import that has just ended came to; files that were refused or repaired by name, until put away."""
    result = st.session_state.get("import-counts")
    if not result or result["dataset"] != dataset.id:
        st.session_state.pop("import-counts", None)
        return
    said = [
        f"{amount(int(result[name]), 'file')} {name}" for name in ("accepted", "repaired", "refused") if name in result
    ]
    if result.get("labelled"):
        said.append(f"{amount(int(result['labelled']), 'scan')} that were there got labels")
    st.success(
        f"Imported: {', '.join(said)}. The tab *Files* says what became of each.", icon=":material/check_circle:"
    )
    names = importing.known_names(dataset.id)
    told = [entry for entry in by_need(dataset.ledger()) if entry.status in STATUSES[:2] and entry.key in names]
    if not told:
        st.session_state.pop("import-counts")
        return
    rows = [{"Name": names[e.key], "Status": e.status, "What was done, or why not": e.reason} for e in told]
    st.dataframe(
        rows,
        hide_index=True,
        key="import-named",
        height="content" if len(rows) < 7 else 260,
        column_config={"What was done, or why not": st.column_config.TextColumn(width="large")},
    )
    st.button("Put away", key="import-seen", icon=":material/close:", type="tertiary", on_click=forget_counts)


def forget_counts() -> None:
    """Puts the summary of an import away."""
    st.session_state.pop("import-counts", None)


def by_need(entries: list[Entry]) -> list[Entry]:
    """What a person should look at first: refused, then repaired, then the rest, each in the order of import."""
    return sorted(entries, key=lambda entry: STATUSES.index(entry.status))


def overview(dataset: Dataset) -> None:
    """Fingerprint, split by patient, warnings."""
    fingerprint = dataset.fingerprint
    shown.facts(dataset)
    shown.show_warnings(fingerprint)
    left, right = st.columns([1.25, 1], gap="medium")
    with left, style.card("Classes on each side of the split", height="stretch"):
        shown.show_balance(fingerprint)
        shown.show_sizes(dataset)
    with right, style.card("In words", height="stretch"):
        for sentence in shown.words(fingerprint):
            st.markdown(sentence)
        st.markdown(f":material/person: {plain(shown.patient_words(fingerprint))}")
        if fingerprint.synthetic:
            st.markdown(":violet-badge[:material/science: synthetic] These scans are drawn by a program, not taken.")
    if fingerprint.attributes:
        with style.card("Whom they show, and how they were taken", key="attributes"):
            shown.show_attributes(fingerprint)
    audit.card(dataset)


def pictures(dataset: Dataset) -> None:
    """Thumbnails by side and class, a page at a time."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        split = st.segmented_control(
            "Side", ["All", *shown.SPLIT_WORDS.values()], default="All", key=f"side-{dataset.id}", required=True
        )
        label = "All"
        if dataset.classes:
            label = st.selectbox("Class", ["All", *dataset.classes], key=f"class-{dataset.id}", width=260)
    chosen = [
        index
        for index, case in enumerate(dataset.cases)
        if split in ("All", shown.SPLIT_WORDS[case.split]) and _carries(dataset, case.label, label)
    ]
    if not chosen:
        st.caption("No scan of this class lies on this side.")
        return
    num_pages = -(-len(chosen) // NUM_A_PAGE)
    page = st.pagination(num_pages, key=f"page-{dataset.id}-{split}-{label}") if num_pages > 1 else 1
    here = chosen[(page - 1) * NUM_A_PAGE : page * NUM_A_PAGE]
    keys = [f"look-{dataset.id}-{index}" for index in here]
    captions = [shown.label_words(dataset, dataset.cases[index].label) for index in here]
    st.caption(f"{amount(len(chosen), 'scan')}. Press a picture to look closer.")
    pressed = scans.gallery([shown.thumbnail(str(home()), dataset.id, index) for index in here], captions, keys)
    if pressed:
        look(dataset, here[keys.index(pressed)])


def _carries(dataset: Dataset, label: int | tuple[int, ...] | None, wanted: str) -> bool:
    if wanted == "All":
        return True
    held = label if isinstance(label, tuple) else () if label is None else (label,)
    return any(dataset.classes[i] == wanted for i in held)


def files(dataset: Dataset) -> None:
    """The ledger: what became of each file; its name only where this session brought it, or for a name typed here."""
    ledger = by_need(dataset.ledger())
    names = importing.known_names(dataset.id)
    tally = {status: sum(entry.status == status for entry in ledger) for status in STATUSES}
    style.facts([(status.capitalize(), f"{n:,}", "") for status, n in tally.items()])
    left, right = st.columns([1.2, 1], gap="medium", vertical_alignment="bottom")
    with left:
        options = ["all", *(status for status in STATUSES if tally[status])]
        first = "refused" if tally["refused"] else "all"
        wanted = st.segmented_control("Show", options, default=first, key=f"status-{dataset.id}", required=True)
    with right:
        name = st.text_input(
            "What became of this file?",
            key=f"find-{dataset.id}",
            placeholder="type its name, such as 0012.dcm",
            icon=":material/search:",
            help="Names are not stored. The one you type is turned into the same key as at the import, and looked up.",
        ).strip()
    found = look_up(dataset, name, names) if name else [e for e in ledger if wanted in ("all", e.status)]
    if name and not found:
        st.info("No file of this name was imported into this dataset.", icon=":material/search_off:")
        return
    if name and len(found) <= 5:
        for entry in found:
            called = f"**{plain(names[entry.key])}** " if entry.key in names else ""
            case = f" Scan {entry.case}." if entry.case else ""
            st.markdown(f"{style.badge(entry.status)} {called}{plain(entry.reason)}{case}")
        return
    st.dataframe(
        [
            {
                "File": entry.n,
                **({"Name": names.get(entry.key, "")} if names else {}),
                "Kind": entry.suffix.lstrip(".") or "none",
                "Size": size(entry.bytes),
                "Status": entry.status,
                "What was done, or why not": entry.reason,
                "Scan": entry.case or "",
            }
            for entry in found
        ],
        hide_index=True,
        key=f"ledger-{dataset.id}",
        column_config={"What was done, or why not": st.column_config.TextColumn(width="large")},
    )
    if names:
        st.caption("Names are shown until you reload the page; they are not stored.")
    else:
        st.caption("Names are not stored; type one to look it up.")


def look_up(dataset: Dataset, name: str, names: dict[str, str]) -> list[Entry]:
    """The entries for a typed name: as typed, else as the end of a path known here, else by its last part alone."""
    found = dataset.find(name)
    path = name.replace("\\", "/").removeprefix("./").strip("/")
    if not found and names:
        ends = {key for key, known in names.items() if known.endswith(f"/{path}")}
        found = [entry for entry in dataset.ledger() if entry.key in ends]
    if not found and "/" in path:
        found = dataset.find(path.rsplit("/", 1)[1])
        if found:
            st.caption("Looked up by the last part of what you typed: folders may differ.")
    return by_need(found)


def stop_asking() -> None:
    """Closes the import form; files that have arrived wait for a day."""
    address.drop("import")


def heading(summaries: list[Summary], summary: Summary | None) -> None:
    """Title, and on the right what can be done."""
    caption = ""
    if summary is not None:
        begun, touched = ago(summary.created), ago(summary.changed)
        caption = f"{amount(summary.num_cases, 'scan')} · {size(summary.bytes)} on disk · imported {begun}" + (
            f", changed {touched}" if touched != begun else ""
        )
    with style.heading(plain(summary.name) if summary else "Which scans?", caption):
        if summaries:
            st.button("Import scans", icon=":material/upload_file:", on_click=ask_import, key="ask-import")
        if summary is not None:
            if st.button("Delete", icon=":material/delete:", key="delete-dataset"):
                confirm_delete(summary)
            st.button(
                "Use these scans",
                type="primary",
                icon=":material/arrow_forward:",
                key="use-dataset",
                on_click=use,
                args=(summary.id,),
                help="Puts them into the open experiment and goes on to the network",
            )


def chosen_dataset(summaries: list[Summary]) -> str:
    """Which dataset the page shows: the URL's, the open experiment's, else the newest."""
    ids = [summary.id for summary in summaries]
    wanted = address.get("dataset")
    if wanted in ids:
        return wanted
    open_draft = draft.current()
    own = open_draft.experiment.data.dataset if open_draft else ""
    return own if own in ids else ids[0]


for slot in (importing.SLOT, DEMO):
    jobs.keep_in_url(slot)
take_results()
target = st.session_state.pop("leave-for", "")
if target and go.exists(target):
    go.to(target)
there = datasets(home())
asked = address.get("import") == "1" and not any(job_at_work(slot) for slot in (importing.SLOT, DEMO))
now = chosen_dataset(there) if there else ""
try:
    opened = shown.opened(now) if now else None
except UnknownDataset:
    opened = None
if asked:
    with style.heading(
        "Import scans", "They are copied into ScanLoom's own folder; names of files and patients are not."
    ):
        st.button("Back", icon=":material/arrow_back:", key="back", on_click=stop_asking)
else:
    heading(there, opened[1] if opened else None)
error = st.session_state.pop("data-error", "")
if error:
    st.error(plain(error), icon=":material/error:")
views = [jobs.watch(DEMO, "Making the demo set"), jobs.watch(importing.SLOT, "Importing")]
working = any(view is not None and view.active for view in views)
if asked:
    importing.form()
elif opened is not None:
    if len(there) > 1:
        names = {summary.id: summary.name for summary in there}
        if st.session_state.get("dataset-pick") != now:
            st.session_state["dataset-pick"] = now
        st.pills(
            "Datasets",
            list(names),
            default=now,
            key="dataset-pick",
            format_func=lambda id: names[id],
            label_visibility="collapsed",
            required=True,
            on_change=lambda: address.put("dataset", st.session_state["dataset-pick"]),
        )
    counts_of_import(opened[0])
    names_of_tabs = ["Overview", "Scans", "Label", "Files"]
    first, second, third, fourth = st.tabs(names_of_tabs, key=f"tabs-{now}", on_change="rerun")
    with first:
        if first.open:
            overview(opened[0])
    with second:
        if second.open:
            pictures(opened[0])
    with third:
        if third.open:
            annotating.tab(opened[0])
    with fourth:
        if fourth.open:
            files(opened[0])
elif not working:
    nothing_yet()
