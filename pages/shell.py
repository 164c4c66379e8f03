"""The shell: the list of pages, and what stands around each of them: draft, undo, machine, notice. No logic."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from scanloom_components import history

from pages.kit import address, annotating, draft, steps, style
from pages.kit.machine import this_machine
from pages.kit.words import plain

st.set_page_config(page_title="ScanLoom", page_icon=str(style.ICON), layout="wide")
style.apply()
st.logo(str(style.LOGO), size="large", icon_image=str(style.LOGO_SMALL))

HERE = Path(__file__).parent
PAGES = {
    "": [("home.py", "Home", ":material/home:")],
    "Scans": [("data.py", "Data", ":material/radiology:")],
    "Build": [
        ("network.py", "Network", ":material/account_tree:"),
        ("training.py", "Training", ":material/model_training:"),
        ("search.py", "Which settings win?", ":material/travel_explore:"),
    ],
    "Watch": [("runs.py", "Runs", ":material/show_chart:")],
    "Use": [
        ("results.py", "Results", ":material/verified:"),
        ("test.py", "Test a scan", ":material/biotech:"),
        ("reader.py", "Reader and network", ":material/visibility_off:"),
    ],
}
EDITS = ("", "data", "network", "training", "search")  # Home and the pages that change the open experiment
listed = {
    section: [
        st.Page(HERE / file, title=title, icon=icon, default=file == "home.py", url_path=file.removesuffix(".py"))
        for file, title, icon in entries
        if (HERE / file).is_file()
    ]
    for section, entries in PAGES.items()
}
page = st.navigation({section: entries for section, entries in listed.items() if entries})
address.on_page(page.url_path)
draft.keep_in_url()
if annotating.WAITING in st.session_state:  # drawing alone never comes here
    annotating.store_waiting()

with st.sidebar:
    open_draft = draft.current()
    if open_draft is not None and page.url_path in EDITS:
        st.caption("Experiment")
        st.markdown(f"**{plain(open_draft.name)}**")
        steps.place(open_draft, drawn=page.url_path != "network")
    with st.container(key="seal", gap="small"):
        machine = this_machine()
        st.caption(f":material/memory: {plain(machine.words)}")
        st.caption(":material/lock: Offline: no request leaves this machine")
        st.caption(":material/warning: Research and education only: not for clinical use")
    history(key="history")

page.run()
