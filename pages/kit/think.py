"""On your scan: what each layer of the network makes of one scan, while it is being built.

Feature maps, filters, a step through a convolution or pooling, and the values with their function, of the layer that is
open in the editor. A short job runs the network (`builder.look`); this panel only draws what it kept.
"""

from __future__ import annotations

import base64
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import streamlit as st

from builder.data import Dataset
from builder.drawing import graph_drawing, unrolled_svg
from builder.execute import home
from builder.graph import sentence, trace
from builder.look import SAMPLES, subject_digest
from builder.network import show
from builder.runs import Job, Run, RunStore, StoreError
from builder.spec import INPUT, Experiment, SpecError
from pages.kit import charts, examples, heat, jobs, layers, mosaic, step, style
from pages.kit import draft as drafts
from pages.kit.findings import Findings
from pages.kit.words import amount, plain

__all__ = ["panel", "watch"]

_SLOT = "look"
_UNTRAINED = ""
_RUNS = 60  # the newest ones are offered
_VIEWS = ("Feature maps", "Filters", "Step by step", "Values")
_WHAT = ("Layer by layer", "Computational graph")
_CSS = """<style>
.st-key-think img{image-rendering:pixelated;border-radius:.25rem}
.st-key-think [data-testid=stImageContainer] img{max-width:100%}
</style>"""


def watch() -> None:
    """Shows how the look is going. Call it once a page, outside of any fragment."""
    jobs.keep_in_url(_SLOT)
    jobs.watch(_SLOT, "Looking at every layer")


def panel(draft: drafts.Draft, found: Findings) -> None:
    """The whole panel, for the layer that is open in `draft`'s editor."""
    if not draft.experiment.network:
        return
    st.html(_CSS)
    with style.card(key="think"):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.subheader("On your scan", anchor=False, width="content")
            what = st.segmented_control(
                "What to look at", _WHAT, default=_WHAT[0], key="think-what", label_visibility="collapsed"
            )
        if what == _WHAT[1]:
            graph(draft, found)
            return
        asked = _controls(draft, found)
        job, answer = jobs.of_slot(_SLOT), jobs.result(_SLOT)
        if asked:
            st.rerun()  # the whole page, so that the job's progress is drawn
        if job is None or answer is None:
            if job is None or not job.view().active:
                _invitation()
            return
        if answer["digest"] != subject_digest(draft.experiment):
            st.caption(":orange[:material/history: The network has changed since. Press Look for the present one.]")
        _layer(draft, job, answer)


def _invitation() -> None:
    st.caption(
        "See what every layer makes of one scan: its feature maps, its filters, the numbers behind a single output, "
        "where its values lie. The network need not be trained: it is looked at as a training would begin it."
    )


# -- what is looked at -------------------------------------------------------------------------------------------------


def _controls(draft: drafts.Draft, found: Findings) -> bool:
    """Scan, weights and the button; whether a look was asked for just now."""
    scan, words = _scan(draft, found)
    with st.container(horizontal=True, vertical_alignment="bottom", key="think-controls"):
        if found.summary is None:
            st.segmented_control(
                "Scan",
                list(SAMPLES),
                key="think-sample",
                default="CT",
                help="Real scans that come with ScanLoom. Choose a data set on the Training page for your own.",
            )
        else:
            with st.container(width="content", gap=None):
                st.caption("Scan")
                with st.container(horizontal=True, vertical_alignment="center", width="content"):
                    st.markdown(f"**{plain(words)}**", width="content")
                    st.button(
                        "Another",
                        key="think-another",
                        icon=":material/casino:",
                        type="tertiary",
                        on_click=_another,
                        help="Another training scan of the data set.",
                    )
        run = _weights(draft)
        pressed = st.button(
            "Look",
            key="think-look",
            type="primary",
            icon=":material/visibility:",
            help="Runs the network once on this scan. Takes a second or two.",
        )
        refused = st.session_state.pop("think-refused", "")
    if refused:
        st.markdown(f":red[:material/error: {plain(refused)}]")
    if not pressed:
        return False
    payload = {"experiment": draft.experiment.model_dump(mode="json"), "words": words, **scan}
    if run:
        payload["run"] = run
    try:
        jobs.submit("look", payload, _SLOT)
    except StoreError as error:
        st.session_state["think-refused"] = str(error)
    return True


def _another() -> None:
    st.session_state["think-number"] = st.session_state.get("think-number", 0) + 1


def _scan(draft: drafts.Draft, found: Findings) -> tuple[dict[str, Any], str]:
    """What the job is told of the scan, and what people are told."""
    if found.summary is None:
        name = st.session_state.get("think-sample") or "CT"
        return {"sample": name}, f"sample {name}"
    dataset = found.summary.id
    case = _case(dataset, found.summary.changed, st.session_state.get("think-number", 0))
    if case is None:
        return {"sample": "CT"}, "sample CT"
    index, label = case
    return {"dataset": dataset, "case": index}, f"scan {index + 1}{f', {label}' if label else ''}"


@st.cache_data(max_entries=64, show_spinner=False)
def _case(dataset: str, changed: float, number: int) -> tuple[int, str] | None:
    """Place and label of a training scan, counted round and round as the example of the Training page is."""
    opened = Dataset.open(home(), dataset)
    indices = opened.examples("train")
    if not len(indices):
        return None
    index = int(indices[(number * 7919) % len(indices)])
    return index, examples.label_words(opened.classes, opened.cases[index].label)


def _weights(draft: drafts.Draft) -> str:
    """Which weights: those of a fresh start, or of a run of this very network. Returns the run's id or ""."""
    runs = _same_network(draft)
    if not runs:
        return _UNTRAINED
    return st.selectbox(
        "Weights",
        [_UNTRAINED, *runs],
        key="think-weights",
        width=280,
        format_func=lambda id: f"Run {runs[id]}, {id[9:13]}" if id else "Untrained",
        help="Those a training begins with, or the best ones of a run of this very network.",
    )


def _same_network(draft: drafts.Draft) -> dict[str, str]:
    """{id: name} of the newest runs that have learned with the network and preparation of the draft."""
    wanted = _learns(draft.experiment)
    found: dict[str, str] = {}
    for run in RunStore(home()).runs()[:_RUNS]:
        if (run.folder / "best.safetensors").is_file():
            name, own = _of_run(str(home()), run.id)
            if own == wanted:
                found[run.id] = name
    return found


def _learns(experiment: Experiment) -> str:
    """What weights fit into, as one string: the network and the preparation, whatever the data set."""
    nodes = [n.model_dump(mode="json") for n in experiment.network]
    return json.dumps([nodes, experiment.data.model_dump(mode="json", exclude={"dataset"})], sort_keys=True)


@lru_cache(maxsize=512)
def _of_run(where: str, id: str) -> tuple[str, str]:
    """Name and `_learns` of a run, whose document never changes; ("", "") where it cannot be read."""
    try:
        own = Run(Path(where), id).experiment
    except (SpecError, OSError):
        return "", ""
    return own.name, _learns(own)


# -- the open layer ----------------------------------------------------------------------------------------------------


def _layer(draft: drafts.Draft, job: Job, answer: dict[str, Any]) -> None:
    id = layers.selected(draft) or INPUT
    told = answer["layers"].get(id)
    st.caption(f"{plain(answer['scan'][:1].upper() + answer['scan'][1:])} · {plain(answer['weights'])}")
    if told is None:
        st.markdown(f"**{plain(id)}** was not part of this look: it is new, or something above it does not work yet.")
        return
    node = next((n for n in draft.experiment.network if n.id == id), None)
    name = "Scan" if node is None else layers.title(node)
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.markdown(f"**{plain(name)}** `{id}` `{show(tuple(told['shape']))}`", width="content")
        view = st.segmented_control("View", _VIEWS, default=_VIEWS[0], key="think-view", label_visibility="collapsed")
    if told["wild"]:
        st.markdown(f":red[:material/error: {told['wild']:,} of its values are not finite numbers.]")
    draw = {"Filters": _filters, "Step by step": _steps, "Values": _values}.get(view or "", _maps)
    draw(job.folder, id, told, answer)


@st.cache_data(max_entries=64, show_spinner=False)
def _array(folder: str, file: str) -> np.ndarray:
    return np.load(Path(folder) / file, allow_pickle=False)


@st.cache_data(max_entries=64, show_spinner=False)
def _sheet(folder: str, file: str, alone: bool, dark: bool) -> bytes:
    """All maps of a layer in one PNG, on one scale or each `alone` on its own; made once, sent at every draw."""
    values = _array(folder, file)
    whole = mosaic.scale_of(values)
    tiles = [mosaic.coloured(v, *(mosaic.scale_of(v) if alone else whole), dark) for v in values]
    return heat.png(mosaic.grid(tiles))


def _dark() -> bool:
    return st.context.theme.type == "dark"


def _grey(image: np.ndarray) -> np.ndarray:
    picture = examples.picture(image)
    return np.repeat(picture[..., None], 3, 2) if picture.ndim == 2 else picture


def number(value: float) -> str:
    """A number short enough for a caption: 0.0123, 4.31, -128."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _legend(low: float, high: float, signed: bool) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption(number(low), width="content")
        st.image(mosaic.bar(signed, _dark()), width=180, alt=f"Colours from {number(low)} to {number(high)}")
        st.caption(f"{number(high)}{', zero in the middle' if signed else ''}", width="content")


def _maps(folder: Path, id: str, told: dict[str, Any], answer: dict[str, Any]) -> None:
    values = _array(str(folder), told["maps"])
    if values.ndim == 1:
        _numbers(values, told)
        return
    if id == INPUT:
        _input(folder, told, answer)
        return
    left, middle, right = st.columns([1, 3, 1.15], gap="medium")
    image = _array(str(folder), answer["image"])
    with left:
        st.image(_big(_grey(image)), width="stretch", alt="The scan as it is prepared")
        st.caption("The scan as prepared")
    own = told["layout"] != "sequence" and len(values) > 1
    with middle:
        alone = own and st.toggle(
            "Each channel on its own scale",
            key="think-alone",
            help="Off: one scale for all channels, so that they can be compared. On: faint ones become visible.",
        )
        sheet = _sheet(str(folder), told["maps"], bool(alone), _dark())
        st.image(sheet, width="stretch", alt=f"{len(values)} feature maps of {id}")
        if alone:
            st.caption(f"Each from its own lowest to its own highest value; all lie in {_range(told)}.")
        else:
            _legend(*mosaic.scale_of(values))
        st.caption(_count_words(told, len(values)))
    with right:
        one = _channel(id, len(values)) if own else 0
        st.image(
            _big(mosaic.coloured(values[one], *mosaic.scale_of(values[one]), _dark())),
            width="stretch",
            alt=f"Channel {one + 1} of {id}",
        )
        low, high, mean = (float(f(values[one])) for f in (np.min, np.max, np.mean))
        st.caption(
            f"{f'Channel {one + 1}: ' if own else ''}{number(low)} to {number(high)}, mean {number(mean)}, "
            f"{100 * float((values[one] == 0).mean()):.0f} % zeros"
        )


def _channel(id: str, count: int) -> int:
    """Which channel is shown large; the same number stays chosen from layer to layer as far as there are so many."""
    key = f"think-channel-{count}"
    return st.number_input("Channel", 1, count, 1, key=key, help="Counted row by row.") - 1


def _big(picture: np.ndarray, side: int = 320) -> np.ndarray:
    times = mosaic.largest(picture.shape[0], picture.shape[1], side)
    return np.repeat(np.repeat(picture, times, 0), times, 1)


def _range(told: dict[str, Any]) -> str:
    return f"{number(told['low'])} to {number(told['high'])}"


def _count_words(told: dict[str, Any], shown: int) -> str:
    said = []
    if told["layout"] == "sequence":
        said.append("One row a step, one column a feature.")
    elif told["num_channels"] > shown:
        said.append(f"The first {shown} of {told['num_channels']:,} channels.")
    if told["items"] > 1:
        kind = "slice" if told["layout"] == "series" else "layer in depth"
        said.append(f"The middle {kind}, {told['item'] + 1} of {told['items']}.")
    if told.get("reduced", 1) > 1:
        said.append(f"Drawn {told['reduced']} times smaller.")
    said.append(f"{100 * told['zeros']:.0f} % of the values are zero.")
    return " ".join(said)


def _input(folder: Path, told: dict[str, Any], answer: dict[str, Any]) -> None:
    left, right = st.columns([1, 3], gap="medium")
    with left:
        st.image(_big(_grey(_array(str(folder), answer["image"]))), width="stretch", alt="The scan as it is prepared")
    with right:
        st.markdown(
            f"What goes in, once prepared and normalized: values from **{number(told['low'])}** to "
            f"**{number(told['high'])}**, mean {number(told['mean'])}, spread {number(told['std'])}."
        )
        st.caption(_count_words(told, told["num_channels"]) + " Open a layer to see what it makes of this.")


def _numbers(values: np.ndarray, told: dict[str, Any]) -> None:
    """A vector: one bar a number."""
    import plotly.graph_objects as go_

    blue, _, _, orange, *_ = charts.palette()
    few = values[:512]
    figure = go_.Figure(
        go_.Bar(
            x=list(range(1, len(few) + 1)),
            y=few,
            marker={"color": np.where(few < 0, blue, orange), "line": {"width": 0}},
            hovertemplate="number %{x}: %{y:.4g}<extra></extra>",
        )
    )
    figure.update_layout(
        height=230,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        bargap=0.15,
        xaxis={"title": "Number of the vector"},
        yaxis={"title": "Value", "zeroline": True},
    )
    st.plotly_chart(figure, key="think-vector", config={"displayModeBar": False}, alt="The numbers that come out")
    size = told["shape"][-1]
    many = f"The first {len(few)} of {size:,} numbers." if size > len(few) else f"{amount(size, 'number')} come out."
    st.caption(f"{many} From {_range(told)}; {100 * told['zeros']:.0f} % are zero.")


def _filters(folder: Path, id: str, told: dict[str, Any], answer: dict[str, Any]) -> None:
    """The weights as pictures: whole where they look at one or three channels, else those of one output."""
    kernels = told.get("kernels") or []
    if not kernels:
        st.caption("This layer has no filters: it learns nothing, or its weights are no pictures. Open a convolution.")
        return
    chosen = kernels[0]
    if len(kernels) > 1:
        names = [k["name"] or id for k in kernels]
        chosen = kernels[names.index(st.selectbox("Part of the block", names, key=f"think-part-{id}", width=320))]
    values = _array(str(folder), chosen["file"])
    num, depth, high, wide = values.shape
    each = " x ".join(map(str, chosen["shape"][2:]))
    said = f"{amount(num, 'filter')} of {each} over {amount(depth, 'channel')}"
    most = float(np.abs(values).max()) or 1.0
    if depth == 3:
        tiles = [np.clip(127.5 + 127.5 * v.transpose(1, 2, 0) / most, 0, 255).astype(np.uint8) for v in values[:64]]
        st.image(mosaic.grid(tiles, tile=64, wide=3), width=_width(tiles, 64), alt=said)
        st.caption(f"{said}, drawn in red, green and blue; grey is zero. Weights reach {number(most)} either way.")
        return
    if depth == 1:
        tiles = [mosaic.coloured(v[0], -most, most, True, _dark()) for v in values[:64]]
        st.image(mosaic.grid(tiles, tile=64, wide=3), width=_width(tiles, 64), alt=said)
    else:
        one = st.slider("Filter", 1, num, 1, key=f"think-filter-{num}") - 1 if num > 1 else 0
        most = float(np.abs(values[one]).max()) or 1.0
        tiles = [mosaic.coloured(v, -most, most, True, _dark()) for v in values[one][:64]]
        st.image(mosaic.grid(tiles, tile=44, wide=4), width=_width(tiles, 44), alt=f"Filter {one + 1} of {num}")
        said += f"; filter {one + 1}, one picture for each channel it looks at"
        if depth > 64:
            said += " (the first 64)"
    _legend(-most, most, True)
    st.caption(f"{said}.")


def _width(tiles: list[np.ndarray], tile: int) -> int | Literal["stretch"]:
    """Few small kernels are not blown up to the width of the page."""
    return "stretch" if len(tiles) * (tile + 4) > 900 else max(160, mosaic.grid(tiles, tile=tile, wide=3).shape[1])


def _steps(folder: Path, id: str, told: dict[str, Any], answer: dict[str, Any]) -> None:
    found = told.get("step")
    if told.get("time"):
        _time(id, told["time"])
        return
    if found is None:
        shape = told["shape"]
        st.caption(
            "Convolutions and poolings over a picture can be gone through place by place. This layer is neither."
            if len(shape) < 3 or not told.get("kernels")
            else "The inside of a block, a volume, or a layer too large to keep all its numbers cannot be gone through."
        )
        return
    x = _array(str(folder), found["from"])
    weight, bias = (None if found[n] is None else _array(str(folder), found[n]) for n in ("weight", "bias"))
    step.draw(str(folder), id, x, found["geometry"], weight, bias)


def _time(id: str, told: dict[str, Any]) -> None:
    """A recurrent layer unrolled, and how far back its last state hears."""
    names = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}
    memory = told["memory"]
    st.image(
        unrolled_svg(names[told["kind"]], memory, told["truncated"], dark=_dark()),
        width="stretch",
        alt=f"{id} unrolled over {len(memory)} steps",
    )
    for words in memory_words(memory, told["truncated"]):
        st.markdown(words)
    if told["bidirectional"]:
        st.caption("Drawn is the direction from first to last; the other one runs the same way back, and both count.")


def memory_words(memory: list[float], truncated: int) -> list[str]:
    """How far back a recurrent layer hears, in sentences of markdown."""
    most = max(memory, default=0.0)
    if not most:
        return ["The last state does not change with any step of this sequence."]
    shares = [value / most for value in memory]
    said = [
        "In per cent: how much the last state changes with the input of each step, measured on this scan. The loudest "
        f"step, number {shares.index(1.0) + 1}, counts as 100; the first one has **{100 * shares[0]:.2g} %**."
    ]
    if truncated and truncated < len(memory):
        said.append(f"Errors travel back at most {truncated} steps: what lies before the red cross teaches nothing.")
    elif shares[0] < 0.01 and len(shares) > 2:
        said.append(
            ":orange[:material/warning: The beginning is all but forgotten (a vanishing gradient).] A GRU or LSTM, a "
            "bidirectional layer or attention pooling over all states hears more of it."
        )
    return said


def _values(folder: Path, id: str, told: dict[str, Any], answer: dict[str, Any]) -> None:
    """The histogram of what comes in (activation functions, with their curve) or comes out (any other layer)."""
    import plotly.graph_objects as go_

    activation = told.get("activation")
    seen = (activation or told)["histogram"]
    blue, _, _, orange, *_ = charts.palette()
    edges = np.linspace(seen["low"], seen["high"], len(seen["counts"]) + 1)
    counts = np.array(seen["counts"], float)
    figure = go_.Figure(
        go_.Bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=100 * counts / max(counts.sum(), 1),
            width=(edges[1] - edges[0]),
            marker={"color": blue, "opacity": 0.45, "line": {"width": 0}},
            name="share of the values",
            hovertemplate="around %{x:.3g}: %{y:.1f} %<extra></extra>",
        )
    )
    curve = (activation or {}).get("curve")
    if curve:
        figure.add_trace(
            go_.Scatter(
                x=curve["x"],
                y=curve["y"],
                mode="lines",
                line={"color": orange, "width": 3},
                name="the function",
                yaxis="y2",
                hovertemplate="%{x:.3g} becomes %{y:.3g}<extra></extra>",
            )
        )
    figure.update_layout(
        height=320,
        margin={"l": 8, "r": 8, "t": 30, "b": 8},
        xaxis={"title": "Value that comes in" if activation else "Value that comes out", "zeroline": True},
        yaxis={"title": "Share of the values (%)", "rangemode": "tozero"},
        yaxis2={
            "title": "Value that comes out",
            "overlaying": "y",
            "side": "right",
            "showgrid": False,
            "tickmode": "auto",
        },
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        showlegend=bool(curve),
        bargap=0,
    )
    st.plotly_chart(figure, key="think-values", config={"displayModeBar": False}, alt=f"Histogram of {id}")
    for words in value_words(told, answer["num_scans"]):
        st.markdown(words)


def value_words(told: dict[str, Any], num_scans: int) -> list[str]:
    """What the values of a layer mean, in sentences of markdown."""
    activation = told.get("activation")
    said = [f"From {_range(told)}, mean {number(told['mean'])}, spread {number(told['std'])}."]
    if activation is None:
        return said
    if activation["curve"] is None:
        return [*said, "This function looks at several values at once, so it has no single curve."]
    said = [
        f"On this scan **{100 * activation['flat']:.0f} %** of the values stand where the curve is flat: hardly any "
        f"gradient passes there; **{100 * activation['zero']:.0f} %** come out as zero."
    ]
    over = amount(num_scans, "scan")
    if told["layout"] in ("vector", "sequence") and num_scans < 2:
        said.append("Whether units are dead cannot be said from one scan: take a data set, then several are looked at.")
    elif activation["dead"]:
        said.append(
            f":orange[:material/warning: **{activation['dead']} of {activation['units']} units are dead**: flat "
            f"everywhere on {over}. They pass no gradient and do not learn from these scans.]"
        )
    else:
        said.append(f":green[:material/check_circle:] None of its {activation['units']} units is dead on {over}.")
    return said


# -- the computational graph -------------------------------------------------------------------------------------------


def graph(draft: drafts.Draft, found: Findings) -> None:
    """The computational graph of the network, forward and back, to zoom into and to take away as an SVG."""
    wrong = [n.id for n in found.plan.nodes if n.message]
    if wrong:
        st.caption(f"The graph appears once the network fits together; look at {plain(', '.join(wrong[:3]))}.")
        return
    now = draft.experiment
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        detail = st.segmented_control(
            "Detail",
            list(_DETAIL),
            default="Layers",
            key="think-detail",
            label_visibility="collapsed",
            help="Operations: each single step of torch; layers of more than 40 of them stay one box.",
        )
        st.download_button(
            "Save as SVG",
            lambda: _drawn(now.model_dump_json(), found.num_classes, _DETAIL[detail or "Layers"], False)[0],
            "graph.svg",
            "image/svg+xml",
            key="think-graph-svg",
            icon=":material/download:",
            on_click="ignore",
        )
    kind = _DETAIL[detail or "Layers"]
    svg, width, height, marks, words = _drawn(now.model_dump_json(), found.num_classes, kind, _dark())
    st.plotly_chart(
        _zoomable(svg, width, height, marks),
        key="think-graph",
        config={"scrollZoom": True, "displayModeBar": False, "doubleClick": "reset"},
        alt=f"Computational graph: {words}",
    )
    st.caption(f"{words} Turn the wheel to zoom, drag to move, double-click to see all of it again.")


_DETAIL = {"Layers": "layers", "Operations": "operations"}
_GRAPH_PX = 640


@st.cache_data(max_entries=16, show_spinner=False)
def _drawn(
    document: str, num_classes: int, detail: str, dark: bool
) -> tuple[str, float, float, list[tuple[float, float, str]], str]:
    experiment = Experiment.loads(document)
    traced = trace(experiment, num_classes, {n.id: layers.title(n) for n in experiment.network})
    drawing = graph_drawing(traced, detail=detail, dark=dark)
    marks = [(m.x, m.y, m.words) for m in drawing.marks]
    return drawing.svg, drawing.width, drawing.height, marks, sentence(traced)


def _zoomable(svg: str, width: float, height: float, marks: list[tuple[float, float, str]]) -> Any:
    """A figure that holds the drawing as it is, sharp at every zoom, with words over each box. It opens at its top."""
    import plotly.graph_objects as go_

    source = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    figure = go_.Figure(
        go_.Scatter(
            x=[m[0] for m in marks],
            y=[m[1] for m in marks],
            text=[m[2].replace("<", "&lt;") for m in marks],
            mode="markers",
            marker={"size": 26, "opacity": 0},
            hovertemplate="%{text}<extra></extra>",
        )
    )
    shown = min(height, max(width * 0.62, 620.0))
    figure.update_layout(
        height=_GRAPH_PX,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        dragmode="pan",
        xaxis={"visible": False, "range": [0, width]},
        yaxis={"visible": False, "range": [shown, 0], "scaleanchor": "x"},
        images=[
            {
                "source": source,
                "xref": "x",
                "yref": "y",
                "x": 0,
                "y": 0,
                "sizex": width,
                "sizey": height,
                "sizing": "stretch",
                "layer": "below",
            }
        ],
    )
    return figure
