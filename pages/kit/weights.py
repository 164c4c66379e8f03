"""Where a backbone's weights come from: files taken in, timm's own where a person fetches them; its stages opened."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import streamlit as st

from builder import weights
from builder.catalog import Digest
from builder.parts.layers import LAYERS
from builder.runs import StoreError
from builder.spec import Node, Problem, SpecError
from builder.surgery import expand
from builder.weights import Stored, WeightsError
from pages.kit import address, dropbox, forms, jobs
from pages.kit.draft import Draft, DraftMissing, spared
from pages.kit.words import plain, size

__all__ = ["SLOT", "form", "watch", "whole"]

SLOT = "weights"
_FOR = "weights-for"
_SAID = "weights-said"


def form(draft: Draft, node: Node, problems: Iterable[Problem] = ()) -> None:
    """Draws what can be done about the weights of a layer that has some to choose; nothing for any other layer."""
    spec = LAYERS[node.name]
    if not any(isinstance(p, Digest) for p in spec.params):
        return
    chosen = {**spec.defaults, **node.params}
    if chosen["weights"] == "file":
        forms.marks(draft, forms.problems_at(problems, f"network.{node.id}.params.file"))
        _file(draft, node, str(chosen["file"]), str(chosen["model"]))
    if chosen["weights"] == "download":
        _fetch(draft, node, str(chosen["model"]))
    if node.name == "timm_backbone":
        st.button(
            "Open into its stages",
            key=f"open-{node.id}",
            icon=":material/view_agenda:",
            width="stretch",
            help="Replaces this layer by the stages of its model, one layer each, so that you can put others between "
            "them. What it computes stays the same.",
            on_click=_open,
            args=(draft, node.id),
        )
    if said := st.session_state.pop(f"{_SAID}:{node.id}", ""):
        st.caption(f":red[{plain(said)}]")


def whole(draft: Draft) -> None:
    """One line where the whole network begins with stored weights: which, and the way back to each layer's own."""
    sha256 = draft.experiment.weights
    if not sha256:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        known = {one.sha256: one for one in weights.stored()}
        st.caption(f":material/database: Training begins with stored weights: {_words(known.get(sha256), sha256)}")
        st.button(
            "Begin without them",
            key="weights-whole",
            help="Each layer begins as it does by itself. Undo brings the weights back.",
            on_click=_without,
            args=(draft,),
        )


@spared
def _without(draft: Draft) -> None:
    draft.replace("weights", "", "begin without stored weights")


def watch(draft: Draft) -> None:
    """Shows a file on its way in and, once it is there, writes it into the layer it was meant for. Call it outside of
    any fragment."""
    jobs.keep_in_url(SLOT)
    view = jobs.watch(SLOT, "Weights", lambda: dropbox.empty(SLOT))
    result = jobs.result(SLOT) if view is not None and view.status == "done" else None
    if not result:
        return
    owner, _, id = (address.get(_FOR) or st.session_state.get(_FOR, "")).partition(".")
    address.drop(_FOR)
    st.session_state.pop(_FOR, None)
    jobs.forget(SLOT)
    dropbox.empty(SLOT)
    with contextlib.suppress(DraftMissing):
        meant = draft if owner == draft.id else Draft.open(owner)  # another one may have been opened meanwhile
        _use(meant, id, str(result["sha256"]))
    st.rerun()


@spared
def _use(draft: Draft, id: str, sha256: str) -> None:
    """Writes the digest into the document, so that it and every run of it tell which weights they began with."""
    path = f"network.{id}.params"
    draft.apply(
        lambda now: now.replace(f"{path}.weights", "file").replace(f"{path}.file", sha256),
        f"weights of {id}",
    )


def _file(draft: Draft, node: Node, sha256: str, model: str) -> None:
    known = {one.sha256: one for one in weights.stored()}
    key = f"file-of:{node.id}"
    options = ["", *known] if sha256 in ("", *known) else ["", sha256, *known]
    if st.session_state.get(key) != sha256:
        st.session_state[key] = sha256
    st.selectbox(
        "Weights on this machine",
        options,
        key=key,
        format_func=lambda one: _words(known.get(one), one),
        help="Files are known by their content (SHA-256), never by a name.",
        on_change=_chosen,
        args=(draft, node.id, key),
    )
    if sha256 in known:
        with contextlib.suppress(WeightsError):  # the mark above, or that of the model, tells it
            found, total = weights.fits(model, sha256)
            colour = "green" if found == total else "red"
            st.caption(f":{colour}[{found:,} of the {total:,} weights of {plain(model)} are in it.]")
    came = dropbox.box(
        SLOT,
        label="Take in a file: .safetensors, .pth or .pt",
        help="It is opened where it can run no code and reach no network.",
        several=False,
        folders=False,
    )
    if came:
        words = f"Use this file ({size(came[-1].bytes)})"
        if st.button(words, key=f"take-in-{node.id}", icon=":material/upload:", width="stretch"):
            _start(draft, {"file": str(came[-1].path)}, node.id)


def _words(one: Stored | None, sha256: str) -> str:
    if not sha256:
        return "none"
    if one is None:
        return f"{sha256[:12]} (not on this machine)"
    whose = f"{', '.join(one.models)} of timm, " if one.models else ""
    return f"{sha256[:12]} · {whose}{one.tensors:,} tensors, {size(one.bytes)}"


@spared
def _chosen(draft: Draft, id: str, key: str) -> None:
    if st.session_state[key] != draft.experiment.at(f"network.{id}.params").get("file", ""):
        draft.replace(f"network.{id}.params.file", st.session_state[key] or None, f"weights of {id}")


def _fetch(draft: Draft, node: Node, model: str) -> None:
    if (one := weights.fetched(model)) is not None:
        st.caption(f":green[On this machine: {one.sha256[:12]}, {one.tensors:,} tensors, {size(one.bytes)}.]")
        st.button(
            "Use these",
            key=f"use-{node.id}",
            icon=":material/check:",
            width="stretch",
            help="Writes their SHA-256 into the experiment, so that it tells exactly which weights it begins with.",
            on_click=_use,
            args=(draft, node.id, one.sha256),
        )
        return
    try:
        there = weights.source(model)
    except (WeightsError, RuntimeError, ValueError) as error:
        st.caption(f":red[{plain(str(error))}]")
        return
    licence = f" Licence: {there.licence}." if there.licence else ""
    st.caption(
        f"Contacts **{plain(there.host)}** for {plain(there.what)}: about {size(there.bytes)}.{plain(licence)} That "
        "server learns this machine's address and which model you want; no scan leaves this machine."
    )
    words = f"Fetch from {there.host}"
    if st.button(words, key=f"fetch-{node.id}", icon=":material/cloud_download:", width="stretch"):
        _start(draft, {"fetch": model}, node.id)


def _start(draft: Draft, payload: dict[str, str], id: str) -> None:
    st.session_state[_FOR] = f"{draft.id}.{id}"
    address.put(_FOR, st.session_state[_FOR])
    try:
        jobs.submit("weights", payload, SLOT)
    except StoreError as error:
        st.session_state[f"{_SAID}:{id}"] = str(error)
    st.rerun()  # the whole page: the job is shown outside of the form


@spared
def _open(draft: Draft, id: str) -> None:
    try:
        draft.apply(lambda now: expand(now, id), f"open {id} into its stages")
    except SpecError as error:
        st.session_state[f"{_SAID}:{id}"] = str(error)
