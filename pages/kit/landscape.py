"""For learners: how optimizers walk on a landscape of two numbers, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from builder.landscape import SURFACES, Walk, heights, walk
from builder.parts.training import OPTIMIZERS
from builder.spec import Choice
from pages.kit import charts
from pages.kit import draft as drafts
from pages.kit.words import plain

__all__ = ["toy"]

_STEPS = 120
_FRAMES = 40
_RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.15, 0.3, 1.0)


def toy(draft: drafts.Draft) -> None:
    """The choice of a landscape and of optimizers, and their ways on it."""
    st.caption(
        "The real optimizers of the catalog on a landscape that can be seen: a point is a pair of weights, its height "
        "the loss. Yours walks with the settings above, but at the rate chosen here."
    )
    mine = draft.experiment.training.optimizer
    left, middle, right = st.columns([1.2, 2.4, 1])
    with left:
        surface = st.selectbox("Landscape", list(SURFACES), key="toy-surface", format_func=lambda n: SURFACES[n].title)
    with middle:
        usual = list(dict.fromkeys([mine.name if mine.name in OPTIMIZERS else "adamw", "sgd", "momentum", "adam"]))
        names = st.multiselect(
            "Optimizers", OPTIMIZERS.names, default=usual, key="toy-names", format_func=lambda n: OPTIMIZERS[n].title
        )
    with right:
        usual_rate = min(_RATES, key=lambda r: abs(np.log(r / SURFACES[surface].rate)))
        rate = st.select_slider("Learning rate", _RATES, value=usual_rate, key=f"toy-rate-{surface}")
    st.caption(SURFACES[surface].words)
    if not names:
        st.caption("Choose an optimizer.")
        return
    walks = {n: _walk(surface, mine if n == mine.name else Choice(name=n), rate) for n in names}
    st.plotly_chart(_drawn(surface, walks), key="toy", config={"displayModeBar": False}, alt="Ways over a landscape")
    for name, way in walks.items():
        if way.away:
            st.caption(f":red[{plain(OPTIMIZERS[name].title)} ran away after {len(way.x) - 1} steps: lower the rate.]")
    ends = sorted((way.height[-1], OPTIMIZERS[name].title) for name, way in walks.items() if not way.away)
    if ends:
        st.caption(plain(f"Lowest after {_STEPS} steps: " + ", ".join(f"{title} {h:.3g}" for h, title in ends) + "."))


@st.cache_data(max_entries=200, show_spinner=False)
def _way(surface: str, choice: str, rate: float) -> Walk:
    return walk(surface, Choice.model_validate_json(choice), rate, _STEPS)


def _walk(surface: str, choice: Choice, rate: float) -> Walk:
    return _way(surface, choice.model_dump_json(), rate)


def _drawn(surface: str, walks: dict[str, Walk]) -> Any:
    """The landscape as filled lines of height, the ways on it, and a slider over the steps."""
    import plotly.graph_objects as go

    x, y, z = heights(surface)
    dark = st.context.theme.type == "dark"
    shades = go.Contour(
        x=x,
        y=y,
        z=np.log1p(z - z.min()),
        colorscale="Blues_r" if not dark else "ice",
        ncontours=24,
        showscale=False,
        hoverinfo="skip",
        line={"width": 0.4},
        opacity=0.75,
    )
    ground, colours = SURFACES[surface], charts.palette()
    longest = max(len(way.x) for way in walks.values())
    marks = sorted({round(k * (longest - 1) / (_FRAMES - 1)) for k in range(_FRAMES)})

    def ways(upto: int) -> list[Any]:
        return [
            go.Scatter(
                x=way.x[: upto + 1],
                y=way.y[: upto + 1],
                mode="lines+markers",
                name=OPTIMIZERS[name].title,
                line={"color": colours[k % len(colours)], "width": 2, "dash": "solid" if k < len(colours) else "dot"},
                marker={"size": [3] * min(upto, len(way.x) - 1) + [10]},
            )
            for k, (name, way) in enumerate(walks.items())
        ]

    goal = [ground.goal] if ground.goal else []
    star = go.Scatter(
        x=[p[0] for p in goal],
        y=[p[1] for p in goal],
        mode="markers",
        name="lowest place",
        marker={"symbol": "star", "size": 14, "color": colours[3]},
    )
    figure = go.Figure(
        [shades, star, *ways(longest)],
        frames=[go.Frame(data=ways(mark), traces=list(range(2, 2 + len(walks))), name=str(mark)) for mark in marks],
    )
    steps = [
        {
            "args": [[str(mark)], {"mode": "immediate", "frame": {"duration": 0, "redraw": False}}],
            "label": str(mark),
            "method": "animate",
        }
        for mark in marks
    ]
    play = {"frame": {"duration": 60, "redraw": False}, "fromcurrent": False, "transition": {"duration": 0}}
    figure.update_layout(
        height=470,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        xaxis={"range": ground.span[:2], "title": "one weight"},
        yaxis={"range": ground.span[2:], "title": "another weight"},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        sliders=[
            {
                "steps": steps,
                "active": len(steps) - 1,
                "currentvalue": {"prefix": "Step "},
                "x": 0.12,
                "len": 0.88,
                "pad": {"t": 45},
            }
        ],
        updatemenus=[
            {
                "type": "buttons",
                "bgcolor": "#1d2430" if dark else "#f4f6fa",
                "font": {"color": "#e6eaf2" if dark else "#1b2430"},
                "x": 0.0,
                "y": -0.14,
                "xanchor": "left",
                "yanchor": "top",
                "buttons": [{"label": "Play", "method": "animate", "args": [None, play]}],
            }
        ],
    )
    return figure
