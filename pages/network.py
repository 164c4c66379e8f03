"""What looks at them? The network on a canvas, or as a list of layer cards, and the form of the open layer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from string import Template
from typing import Any

import streamlit as st
from streamlit.errors import StreamlitAPIException

from builder.catalog import Digest, LayerSpec
from builder.network import Planned, show
from builder.parts.layers import LAYERS
from builder.spec import INPUT, Experiment, Node, SpecError
from builder.task import TASKS, find
from pages.kit import canvas, findings, forms, go, layers, locks, steps, style, takeaway, think, weights
from pages.kit import draft as drafts
from pages.kit.pairs import band, pairs
from pages.kit.words import amount, plain, size

_CSS = """<style>
[data-testid=stColumn]:has(> * > * > .st-key-palette),[data-testid=stColumn]:has(> * > * > .st-key-inspector){
 position:sticky;top:3.2rem;align-self:flex-start;max-height:calc(100vh - 4.5rem);overflow-y:auto;padding-bottom:.5rem}
.st-key-palette button{justify-content:flex-start;min-height:1.9rem;padding:.1rem .45rem}
.st-key-palette button>div,.st-key-palette button>div>span{width:100%;justify-content:flex-start;text-align:left}
.st-key-palette [data-testid=stCaptionContainer]{margin-top:.35rem}
.st-key-palette>[data-testid=stLayoutWrapper]{content-visibility:auto;contain-intrinsic-height:auto 12rem}
.st-key-layers [data-testid=stRadioGroup]{gap:.3rem;width:100%}
.st-key-layers [data-testid=stRadioGroup]>div{position:relative;display:grid;align-items:center;column-gap:.75rem;
 width:100%;grid-template-columns:minmax(0,12rem) minmax(0,1fr);min-height:2.5rem;padding:.25rem .75rem;
 border-radius:.5rem;
 border:1px solid color-mix(in srgb,currentColor 16%,transparent)}
.st-key-layers [data-testid=stRadioGroup]>div{content-visibility:auto;contain-intrinsic-height:auto 2.5rem}
.st-key-layers [data-testid=stRadioGroup]>div:hover{border-color:$blue}
.st-key-layers [data-testid=stRadioGroup]>div[data-selected=true]{border-color:$blue;
 box-shadow:inset 3px 0 0 $blue;background:color-mix(in srgb,$blue 7%,transparent)}
.st-key-layers [data-testid=stRadioGroup]>div:has(input:focus-visible){outline:2px solid $blue;outline-offset:1px}
.st-key-layers [class*=-wrong] [data-testid=stRadioGroup]>div:last-child{border-color:$red}
.st-key-layers label{margin:0;min-width:0}
.st-key-layers label::after{content:"";position:absolute;inset:0;cursor:pointer}
.st-key-layers label>div>div:first-child{display:none}
.st-key-layers label p{display:flex;gap:.5rem;align-items:baseline;min-width:0}
.st-key-layers label p strong{font-weight:600;white-space:nowrap}
.st-key-layers label p span{font-size:.78rem;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.st-key-layers [data-testid=stRadioCaption]{margin:0;padding:0;min-width:0}
.st-key-layers [data-testid=stRadioCaption] p{display:grid;align-items:center;column-gap:.75rem;margin:0;
 grid-template-columns:minmax(0,1fr) max-content 3.6rem}
.st-key-layers [data-testid=stRadioCaption] em{font-style:normal;overflow:hidden;text-overflow:ellipsis;
 white-space:nowrap}
.st-key-layers [data-testid=stRadioCaption] code{font-size:.8rem;white-space:nowrap}
.st-key-layers [data-testid=stRadioCaption] p>:last-child{justify-self:end;font-size:.8rem}
@media (max-width:1450px){
 .st-key-layers [data-testid=stRadioGroup]>div{grid-template-columns:minmax(0,1fr) max-content}
 .st-key-layers [data-testid=stRadioCaption] p{grid-template-columns:max-content 3.6rem}
 .st-key-layers [data-testid=stRadioCaption] em{display:none}}
@media (max-width:1150px){.st-key-palette{max-height:17rem;overflow-y:auto;flex-wrap:nowrap}
 .st-key-palette>*{flex-shrink:0}}
</style>"""
_CANVAS_CSS = """<style>
.stMainBlockContainer{max-width:none!important;padding:2.2rem 1.6rem 1rem}
[data-testid=stColumn]:has(> * > * > .st-key-inspector){max-height:calc(100vh - 11.2rem);overflow-y:auto}
</style>"""
CANVAS, LIST = "Canvas", "List"
VIEW = "network-view"
EDITOR = "editor"
"""The part of the page that an edit in the list draws anew."""
_OPEN = ("Convolution",)
"""Groups of the palette that are open at first."""
_COLOURS = {"light": {"blue": "#2456d6", "red": "#c8322b"}, "dark": {"blue": "#6f9bff", "red": "#ff6c6c"}}


def palette(draft: drafts.Draft) -> None:
    """Every layer there is, by group, found by any word that describes it."""
    wanted = st.text_input(
        "Add a layer",
        key="palette-search",
        placeholder="Search: relu, shrink, ...",
        icon=":material/search:",
        help="A name or what it should do: activation, shrink, overfitting, skip.",
    )
    st.caption("It goes below the open card.")
    found = set(p.name for p in LAYERS.search(wanted or ""))
    if not found:
        st.caption(f"No layer is found by {plain(wanted)}. Try activation, pooling, shrink or norm.")
    for group, parts in LAYERS.groups.items():
        shown = [p for p in parts if p.name in found]
        if not shown:
            continue
        # A shut group costs the browser nothing: a hundred buttons would hold up each edit.
        key = f"found:{group}:{wanted}" if wanted else f"group:{group}"
        box = st.expander(group, key=key, expanded=bool(wanted) or group in _OPEN, type="compact", on_change="rerun")
        if not box.open:
            continue
        with box, st.container(gap=None):
            for part in shown:
                st.button(
                    part.title,
                    key=f"add:{part.name}",
                    icon=":material/add:",
                    type="tertiary",
                    width="stretch",
                    help=plain(part.help),
                    on_click=added,
                    args=(draft, part.name),
                )


def added(draft: drafts.Draft, name: str) -> None:
    """Adds a layer; the palette itself stays as it is drawn, which is most of what such an edit would cost."""
    layers.add(draft, name)
    with contextlib.suppress(StreamlitAPIException):  # the list has just been left for the canvas: all is drawn
        st.rerun(EDITOR)


def cards(draft: drafts.Draft, found: findings.Findings) -> None:
    """The layers from the scan to the output. One radio group is one message to the browser, however deep the network;
    it is parted only below a layer about which something is to be said."""
    now = draft.experiment
    at = layers.selected(draft)
    said: dict[str, list[findings.Problem]] = {}
    for problem in found.problems:
        head, _, rest = problem.path.partition(".")
        if head == "network" and rest:
            said.setdefault(rest.split(".")[0], []).append(problem)
    captions = {INPUT: layers.scan_caption(now.data, found.plan.input)}
    for node, planned in zip(now.network, found.plan.nodes, strict=True):
        captions[node.id] = layers.caption(node, planned.shape, planned.parameters, node.inputs)
    titles = {INPUT: "**Scan**"} | {n.id: f"**{plain(layers.title(n))}** :gray[{plain(n.id)}]" for n in now.network}
    with st.container(key="layers", gap="xsmall"):
        for number, ids in enumerate(layers.parted(list(captions), said)):
            faults = said.get(ids[-1], [])
            wrong = any(p.severity == "error" for p in faults)
            key = f"layers-{number}{'-wrong' if wrong else ''}"
            wanted = at if at in ids else None
            if st.session_state.get(key) != wanted:  # told to the browser only then: it must not undo a newer click
                st.session_state[key] = wanted
            st.radio(
                "Layers",
                ids,
                index=None,
                key=key,
                format_func=titles.__getitem__,
                captions=[captions[id] for id in ids],
                label_visibility="collapsed",
                width="stretch",
                on_change=layers.opened,
                args=(draft, key),
            )
            findings.repairs(draft, faults, "card")


def actions(draft: drafts.Draft, node: Node) -> None:
    """What can be done with the open layer as a whole."""
    ids = [n.id for n in draft.experiment.network]
    entries: tuple[tuple[str, str, str, bool, Callable[..., None], tuple[Any, ...]], ...] = (
        ("up", "arrow_upward", "Up", node.id == ids[0], layers.move, (draft, node.id, -1)),
        ("down", "arrow_downward", "Down", node.id == ids[-1], layers.move, (draft, node.id, 1)),
        ("copy", "content_copy", "Copy", False, layers.duplicate, (draft, node.id)),
        ("delete", "delete", "Delete", False, layers.delete, (draft, node.id)),
    )
    places = st.columns(2, gap="xsmall") * 2
    for place, (key, icon, words, off, act, args) in zip(places, entries, strict=True):
        with place:
            st.button(
                words,
                key=f"{key}-layer",
                icon=f":material/{icon}:",
                width="stretch",
                disabled=off,
                on_click=act,
                args=args,
            )


def inspector(draft: drafts.Draft, found: findings.Findings, *, whole: bool = True) -> None:
    """The form of the open layer, out of its catalog entry. `whole`: with what is done to the layer as a whole."""
    now = draft.experiment
    at = layers.selected(draft)
    if at == INPUT or not at:
        st.subheader("Scan", anchor=False)
        st.markdown(
            f"What every layer begins from: `{show(found.plan.input)}`, {layers.scan_axes(now.data)}, once prepared."
        )
        st.caption("Size, colour, grey window and slices are chosen on the Training page, under Preparation.")
        if st.button("Change the preparation", key="to-preparation", icon=":material/tune:"):
            go.to("training")
        return
    node: Node = now.at(f"network.{at}")
    planned = found.plan[at]
    st.subheader(plain(layers.title(node)), anchor=False)
    if node.name not in LAYERS:
        if whole:
            actions(draft, node)
        findings.repairs(draft, found.about(f"network.{at}"), "form")
        return
    spec = LAYERS[node.name]
    st.caption(plain(spec.help))
    path = f"network.{at}"
    if whole:
        actions(draft, node)
    else:
        findings.repairs(draft, [p for p in found.about(path) if not p.path.startswith(f"{path}.params.")], "form")
    locks.presence(draft, path, "this layer")
    plainly = [p for p in spec.params if not isinstance(p, Digest)]
    forms.section(draft, f"{path}.params", plainly, found.problems, num_columns=1)
    weights.form(draft, node, found.problems)
    wires(draft, found, node, spec)
    flow(planned, node, found)


def wires(draft: drafts.Draft, found: findings.Findings, node: Node, spec: object) -> None:
    """What feeds the layer: several for one that joins, one for any other."""
    now = draft.experiment
    options = [w for id in layers.above(now, node.id) for w in (id, *layers.taps(found.plan, id))]
    fed = [f for f in layers.feeds(now, node.id) if f in options]

    def words(id: str) -> str:
        return "the scan" if id == INPUT else id.replace(":", ", output ")

    if isinstance(spec, LayerSpec) and spec.several:
        key = forms.fresh_key(f"wires:{node.id}", fed)
        if st.session_state.get(key) != fed:
            st.session_state[key] = fed
        st.multiselect(
            "Joins",
            options,
            key=key,
            format_func=words,
            help="Two or more layers above this one, or the scan itself.",
            on_change=layers.rewire,
            args=(draft, node.id, key),
        )
        return
    one = fed[0] if fed else None
    key = forms.fresh_key(f"wires:{node.id}", one)
    if st.session_state.get(key) != one:
        st.session_state[key] = one
    st.selectbox(
        "Fed by",
        options,
        index=None,
        key=key,
        format_func=words,
        help="Usually the card right above; another one makes a branch.",
        on_change=layers.rewire,
        args=(draft, node.id, key),
    )


def flow(planned: Planned, node: Node, found: findings.Findings) -> None:
    """What goes in, what comes out, what it costs."""
    came = [show(s) if (s := found.plan.along(f)) else "unknown" for f in planned.inputs]
    rows = [
        ("Goes in", ", ".join(came)),
        ("Comes out", " and ".join(map(show, planned.taps or [planned.shape])) if planned.shape else "nothing yet"),
        ("Parameters", f"{planned.parameters:,}"),
        ("Operations", layers.operations(planned.flops)),
        ("Activations", size(4 * planned.activations)),
        ("One number sees", layers.sees(planned.receptive_field, found.plan.extent)),
        ("Name", node.id),
    ]
    pairs(rows)


def summary(found: findings.Findings) -> None:
    """The network in six numbers; sums that stop at a broken layer say so."""
    planned = found.plan
    pictures = [n.receptive_field for n in planned.nodes if n.layout in ("maps", "series", "volume")]
    deepest = pictures[-1] if pictures else ()
    least = "at least " if any(node.shape is None for node in planned.nodes) else ""
    out = show(planned.output) if planned.output else "–"
    classes = f"{found.num_classes} classes" if found.summary else f"{found.num_classes} classes assumed"
    band(
        [
            ("Scan", show(planned.input)),
            ("Parameters", least + layers.count(planned.parameters)),
            ("Operations a scan", least + layers.operations(planned.flops)),
            ("Activations a scan", least + size(planned.activation_bytes)),
            *([("Last feature map sees", layers.sees(deepest, planned.extent))] if deepest else []),
            (f"Output, {classes}", out),
        ]
    )


def attention(draft: drafts.Draft, found: findings.Findings) -> None:
    """Says above the list that something in it is wrong, and opens the place."""
    faults = found.about("network")
    whole = [p for p in faults if p.path == "network"]
    at = list(dict.fromkeys(p.path.split(".")[1] for p in faults if p.path != "network" and p.severity == "error"))
    findings.repairs(draft, whole, "network")
    if at:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(
                f":red[:material/error: {amount(len(at), 'layer needs', 'layers need')} attention:]", width="content"
            )
            for id in at[:4]:
                st.button(id, key=f"show-{id}", type="tertiary", on_click=layers.select, args=(draft, id))


def chosen_task(now: str) -> str:
    """The task whose starters are offered: that of the experiment until another is chosen."""
    if len(TASKS) < 2:
        return now
    names = TASKS.names
    return st.selectbox(
        "What shall be learned?",
        names,
        index=names.index(now) if now in names else 0,
        key="begin-task",
        format_func=lambda name: TASKS[name].title,
    )


def from_starter(draft: drafts.Draft | None, task: str) -> None:
    """The ready experiments to begin from, in a row of cards."""
    for starter in findings.starters(task):
        with st.container(border=True, gap="xsmall"):
            st.markdown(f"**{plain(starter.name)}**")
            st.caption(plain(find(starter.task).when.get(starter.name, "")))
            slices = "" if starter.data.layout == "maps" else f"{starter.data.num_slices} slices of "
            slices = f"patches of {slices}" if starter.data.blocks else slices
            st.caption(
                f"{amount(len(starter.network), 'layer')}, {slices}{starter.data.size_px} px {starter.data.colour}, "
                f"{amount(starter.training.epochs, 'epoch')}"
            )
            st.button(
                "Begin with it",
                key=f"starter-{starter.name}",
                width="stretch",
                on_click=findings.begin,
                args=(starter, draft),
            )


@drafts.spared
def load(draft: drafts.Draft | None) -> None:
    """Reads an experiment from a file the user chose; a document that cannot be read is refused in one sentence."""
    file = st.session_state.get("experiment-file")
    st.session_state.pop("experiment-refused", None)
    if file is None:
        return
    try:
        loaded = Experiment.loads(file.getvalue())
    except SpecError as error:
        st.session_state["experiment-refused"] = str(error)
        return
    if draft is None:
        drafts.choose(drafts.Draft.create(loaded, "load a file"))
    else:
        draft.put(loaded, "load a file")


def files(draft: drafts.Draft) -> None:
    """Save and load as JSON, and begin anew from a starter."""
    now = draft.experiment
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in now.name) or "experiment"
    with st.popover("Begin from", icon=":material/auto_awesome:"):
        st.caption("Replaces network, preparation and training; name and scans stay. Undo brings the old ones back.")
        from_starter(draft, chosen_task(now.task))
    with st.popover("File", icon=":material/description:"):
        st.download_button(
            "Save as a file",
            lambda: draft.experiment.dumps(),  # when it is pressed: edits do not draw this button anew
            f"{name}.json",
            "application/json",
            key="save-experiment",
            icon=":material/download:",
            on_click="ignore",
            width="stretch",
        )
        upload(draft)
        takeaway.network_in(draft)
        takeaway.code(draft, findings.look(draft.experiment).num_classes)


def upload(draft: drafts.Draft | None) -> None:
    """The door for a saved experiment."""
    st.file_uploader(
        "Open a saved experiment",
        type="json",
        key="experiment-file",
        on_change=load,
        args=(draft,),
        help="A .json file that this page saved. Undo brings the present experiment back.",
    )
    refused = st.session_state.get("experiment-refused")
    if refused:
        st.markdown(f":red[:material/error: {plain(refused)}]")


def nothing_open() -> None:
    """No experiment yet: what to do."""
    style.heading("Network", "What looks at the scans?")
    with style.empty(
        "account_tree",
        "No experiment is open",
        "A network is a stack of layers. Begin from a ready one and change it as you like; nothing can break.",
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
        with st.popover("All starters", icon=":material/apps:"):
            from_starter(None, chosen_task(first.task))
        with st.popover("Open a file", icon=":material/description:"):
            upload(None)


def no_layers(draft: drafts.Draft) -> None:
    """An experiment without layers."""
    with style.empty("account_tree", "No layers yet", "Pick a layer on the left, or begin from a ready network."):
        for starter in findings.starters(draft.experiment.task)[:2]:
            st.button(
                f"Begin with {starter.name}",
                key=f"empty-{starter.name}",
                on_click=findings.begin,
                args=(starter, draft),
            )


def around(draft: drafts.Draft) -> tuple[object, ...]:
    """What is drawn of the document outside of the parts that an edit draws anew: name, task, stored weights."""
    now = draft.experiment
    return now.name, now.task, now.weights


def stack(draft: drafts.Draft, drawn: tuple[object, ...]) -> None:
    """Summary, list and form, drawn alone at an edit: new shapes need no more. `drawn`: what stands around them; where
    that has changed (an undo may take anything back) the whole page is drawn."""
    if around(draft) != drawn:
        st.rerun()
    steps.draw(draft)
    found = findings.look(draft.experiment)
    summary(found)
    if draft.experiment.network:
        attention(draft, found)
    middle, right = st.columns([2.5, 1.25], gap="medium")
    with middle:
        if draft.experiment.network:
            cards(draft, found)
        else:
            no_layers(draft)
    with right, st.container(key="inspector", border=True):
        inspector(draft, found)
    think.panel(draft, found)


def table(draft: drafts.Draft, drawn: tuple[object, ...]) -> None:
    """The canvas and the form beside it, drawn alone at an edit; `drawn` as above."""
    if around(draft) != drawn:
        st.rerun()
    steps.draw(draft)
    found = findings.look(draft.experiment)
    left, right = st.columns([3.3, 1], gap="small")
    with left:
        canvas.draw(draft, found)
    with right, st.container(key="inspector", border=True), st.container(key=f"form-of-{layers.selected(draft)}"):
        inspector(draft, found, whole=False)
    think.panel(draft, found)  # after the canvas, which has its new shapes by then


def view() -> str:
    """The switch between the two ways of looking at one network; returns the chosen one."""
    st.session_state.setdefault(VIEW, st.session_state.get("network-view-kept", CANVAS))
    chosen = st.segmented_control(
        "View",
        [CANVAS, LIST],
        key=VIEW,
        required=True,
        label_visibility="collapsed",
        help="The same network: wires to draw, or a list for keyboard and screen reader.",
    )
    chosen = chosen or CANVAS
    st.session_state["network-view-kept"] = chosen  # a widget's own state is forgotten on other pages
    return chosen


def editor(draft: drafts.Draft) -> None:
    """The page. What an edit changes is drawn first and what stays as it is last: a browser shows what has come."""
    with style.heading("Network", "What looks at the scans?"):
        chosen = view()
        beside = st.container(horizontal=True, width="content")
    coming = st.container()
    if chosen == CANVAS:
        st.html(_CANVAS_CSS)
        st.fragment(key="canvas")(table)(draft, around(draft))
        think.watch()  # below: what comes and goes above would shift the canvas
    else:
        theme = "dark" if st.context.theme.type == "dark" else "light"
        st.html(Template(_CSS).substitute(_COLOURS[theme]))
        left, rest = st.columns([1.05, 4.3], gap="medium")
        with rest:
            st.fragment(key=EDITOR)(stack)(draft, around(draft))
            think.watch()
        with left, st.container(key="palette", gap="xsmall"):
            palette(draft)
    with beside:
        files(draft)
        if st.button("Next: training", key="to-training", type="primary", icon=":material/arrow_forward:"):
            go.to("training")
    with coming:
        weights.watch(draft)
        weights.whole(draft)
        takeaway.watch(draft)


locks.dress()
opened = drafts.current()
if opened is None:
    nothing_open()
else:
    editor(opened)
