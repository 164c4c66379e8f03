"""Taking a network away in another tool's format, trained or not, and taking one of another tool in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from builder import export
from builder.runs import StoreError
from builder.spec import Experiment, SpecError
from pages.kit import dropbox, jobs
from pages.kit.draft import Draft
from pages.kit.words import plain, size

__all__ = ["IN_SLOT", "code", "formats", "network_in", "watch"]

IN_SLOT = "network-in"
_SAID = "network-in-said"
_FIGURES = {"input": "prepared scans", "probabilities": "probabilities", "from_grey_values": "from grey values"}


def formats(
    slot: str,
    payload: Callable[[], dict[str, Any]],
    experiment: Experiment,
    num_classes: int = 2,
    only: str = "",
    prefix: str = "",
) -> None:
    """Draws the choice of a format, what stands in its way, the button that packs, and what was packed, with its proof.

    Args:
        slot: of the jobs, one for each format. payload: tells, when it is pressed, what the job is to work on.
        only: digest of the experiment that a finished export must be of ("" = any). prefix: of the widgets' keys.
    """
    to = st.selectbox(
        "Format",
        list(export.TARGETS),
        format_func=lambda name: export.TARGETS[name].title,
        key=f"{prefix}export-to",
    )
    st.caption(export.TARGETS[to].help)
    own = slot if to == "pytorch" else f"{slot}-{to}"
    job, result = jobs.of_slot(own), jobs.result(own)
    if job is not None and result is not None and (not only or result.get("digest") == only):
        file = job.folder / str(result["file"])
        if file.is_file():
            _proof(result.get("parity") or {})
            st.download_button(
                "Download the zip",
                file.read_bytes,
                file.name,
                "application/zip",
                key=f"{prefix}download-export",
                icon=":material/download:",
                on_click="ignore",
            )
            return
    with st.spinner("Looking at each layer"):
        problems = export.unsupported(experiment, to, num_classes)
    for problem in problems:
        where = problem.path.removeprefix("network.")
        st.markdown(f":red[:material/error: {plain(where)}: {plain(problem.message)}]")
    active = job is not None and job.view().active
    st.button(
        "Pack it",
        key=f"{prefix}export",
        icon=":material/inventory_2:",
        disabled=active or bool(problems),
        on_click=_pack,
        args=(slot, payload, f"{prefix}export-to"),
    )
    if result is None or active:
        jobs.watch(own, "Packing")
    _refused()


def _proof(parity: dict[str, Any]) -> None:
    """How far what was packed is from the app."""
    difference = parity.get("difference") or {}
    if not difference:
        return
    told = ", ".join(f"{_FIGURES.get(name, name)} {value:.1g}" for name, value in difference.items())
    st.caption(
        f":green[:material/verified: Proven on {parity['cases']} {plain(parity['source'])}, in a process of its own: "
        f"largest difference from the app: {told}.]"
    )


def code(draft: Draft, num_classes: int) -> None:
    """The network of the open draft, as it is, in another format."""
    st.markdown("**Export code**")
    now = draft.experiment
    if not now.network:
        st.caption("There are no layers yet.")
        return
    st.caption("The network as it is when it is packed, not trained. A trained one is taken away on the Runs page.")
    formats(
        "export-draft",
        lambda: {"experiment": draft.experiment.model_dump(mode="json")},  # edits do not draw this anew
        now,
        num_classes,
        only=now.digest,
        prefix="draft-",
    )


def network_in(draft: Draft) -> None:
    """The door for a network of Keras or ONNX."""
    came = dropbox.box(
        IN_SLOT,
        label="Import a network: .keras, .onnx, or the JSON of a Keras model",
        help="It is read where it can run no code and open no other file. Layers that are not in the catalog stay in "
        "the network under their own names.",
        several=False,
        folders=False,
    )
    if came:
        words = f"Use this network ({size(came[-1].bytes)})"
        if st.button(words, key="network-in", icon=":material/upload:", width="stretch"):
            _submit("network", {"file": str(came[-1].path)}, IN_SLOT)
            st.rerun()
    _refused()


def watch(draft: Draft) -> None:
    """Shows a network on its way in and, once it is there, puts it into the draft. Call it outside of any fragment."""
    jobs.keep_in_url(IN_SLOT)
    view = jobs.watch(IN_SLOT, "Network", lambda: dropbox.empty(IN_SLOT))
    result = jobs.result(IN_SLOT) if view is not None and view.status == "done" else None
    if result:
        jobs.forget(IN_SLOT)
        dropbox.empty(IN_SLOT)
        try:
            draft.put(_with(draft.experiment, Experiment.checked(result["experiment"])), "import a network")
            st.session_state[_SAID] = _words(result)
        except SpecError as error:
            st.session_state[_SAID] = [str(error)]
        st.rerun()
    said: Sequence[str] = st.session_state.get(_SAID, ())
    if said:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.info("  \n".join(plain(line) for line in said), icon=":material/download_done:")
            if st.button("", key="network-in-read", icon=":material/close:", help="Put these words away"):
                st.session_state.pop(_SAID)
                st.rerun()


def _with(now: Experiment, came: Experiment) -> Experiment:
    """The open experiment with another network: its scans become what that network takes, its data set stays."""
    sizes = {name: getattr(came.data, name) for name in ("size_px", "colour", "slices", "num_slices")}
    if came.data.layout == now.data.layout == "maps":
        sizes |= {"slices": now.data.slices, "num_slices": now.data.num_slices}
    data = now.data.model_copy(update=sizes)
    return now.model_copy(update={"network": came.network, "data": data, "weights": came.weights})


def _words(result: dict[str, Any]) -> list[str]:
    layers, missing = len(result["experiment"]["network"]), len(result["missing"])
    said = [f"The network is here: {layers} layers. Undo brings the old one back."]
    if missing:
        said.append(
            f"{missing} of them are not in the catalog; they stay under their own names until you replace them."
        )
    if result["weights"]:
        said.append(f"Its weights came along ({result['weights'][:12]}): a training begins with them.")
    notes = [str(note) for note in result["notes"]]
    return [*said, *notes[:6], *([f"And {len(notes) - 6} more notes."] if len(notes) > 6 else [])]


def _pack(slot: str, payload: Callable[[], dict[str, Any]], key: str) -> None:
    """Packs in the format that is chosen now; the button may be from before the last choice."""
    to = st.session_state[key]
    _submit("export", {**payload(), "to": to}, slot if to == "pytorch" else f"{slot}-{to}")


def _submit(kind: str, payload: dict[str, Any], slot: str) -> None:
    try:
        jobs.submit(kind, payload, slot)
    except StoreError as error:
        st.session_state["takeaway-refused"] = str(error)


def _refused() -> None:
    if said := st.session_state.pop("takeaway-refused", ""):
        st.markdown(f":red[:material/error: {plain(said)}]")
