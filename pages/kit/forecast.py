"""Do I have enough data? A learning curve of a run's document, its band, and how many further scans would help."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import streamlit as st

from builder import forecast
from builder.execute import home
from builder.runs import Run, RunView
from builder.spec import Experiment
from pages.kit import charts, figures, rounds, style
from pages.kit.words import plain

__all__ = ["card"]

KEY = "forecast"
_DRAWS = (1, 2, 3)
_LOOKS = {"needs": ("green", "trending_up"), "enough": ("blue", "trending_flat"), "cannot tell": ("orange", "help")}


def card(experiment: Experiment, of: Run | None = None, view: RunView | None = None) -> None:
    """The card: what it is, how it is going, or the curve with its band and what follows from it.

    Args:
        of: the run whose document this is. view: of that run.
    """
    with style.card("Do I have enough data?", key=KEY):
        st.caption(
            "The same training with an eighth, a quarter, a half and all of the training patients, judged on the same "
            "scans. If the curve still rises, more scans help, and it says about how many; if it is flat, more of the "
            "same will not."
        )
        rounds.refused(KEY)
        one = rounds.newest(experiment, forecast.KIND)
        answered = one is None or rounds.followed(one, KEY, "Learning curve", _drawn)
        if one is None:
            _choice(experiment, of, view, "Find out", primary=True)
        elif answered:
            with st.expander("Once more, with other parts", icon=":material/replay:"):
                _choice(experiment, of, view, "Find out again", primary=False)


def _choice(experiment: Experiment, of: Run | None, view: RunView | None, words: str, primary: bool) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        draws = st.segmented_control(
            "Parts of each small size", _DRAWS, default=2, key=f"{KEY}-draws", required=True,
            help="With two or more the band also holds the luck of a training.",
        )  # fmt: skip
        num = int(draws or 2)

        def start() -> None:
            id = of.id if of is not None else ""
            rounds.begin(
                lambda: forecast.begin(home(), experiment, draws=num, of=id),
                KEY,
                lambda: rounds.is_going(experiment, forecast.KIND),
            )

        st.button(
            words, key=f"{KEY}-begin", icon=":material/query_stats:", type="primary" if primary else "secondary",
            on_click=start,
        )  # fmt: skip
    trainings = num * (len(forecast.SHARES) - 1) + 1
    st.caption(rounds.cost(trainings, view.seconds if view is not None else 0.0))


def _drawn(found: Mapping[str, Any]) -> None:
    """The answer in words, the curve, and what stands behind it."""
    colour, icon = _LOOKS[found["verdict"]]
    words = str(found["words"]).replace(str(found["headline"]), figures.metric_words(str(found["headline"])))
    st.markdown(f":{colour}[:material/{icon}:] **{plain(words)}**")
    if found.get("synthetic"):
        st.caption(":orange[:material/science: Synthetic scans: these numbers say nothing about real ones.]")
    _chart(found)
    if found["needed"] and found["needed"].get("per_class"):
        _per_class(found["needed"])
    for note in found["notes"]:
        st.caption(plain(note))


def _per_class(needed: Mapping[str, Any]) -> None:
    """A row a class: how many further cases, by the middle and the ends of the band."""

    def words(count: int | None) -> str:
        return "no end in sight" if count is None else f"{count:,}"

    rows = []
    for label, middle in needed["per_class"].items():
        low, high = ((needed.get(f"per_class_{end}") or {}).get(label) for end in ("low", "high"))
        rows.append({"Class": label, "Further cases": words(middle), "At least": words(low), "At most": words(high)})
    st.dataframe(rows, hide_index=True, key=f"{KEY}-classes")


def _chart(found: Mapping[str, Any]) -> None:
    """Trainings as dots, the law through them with its band, solid as far as there are data, dashed beyond."""
    import plotly.graph_objects as go

    curve, name = found["curve"], figures.metric_words(str(found["headline"]))
    colours, now = charts.palette(), found["now"]
    cases = curve["cases"]
    inside = [k for k, n in enumerate(cases) if n <= now * 1.0001]
    beyond = range(max(inside), len(cases))
    figure = go.Figure()
    figure.add_scatter(
        x=[*cases, *cases[::-1]], y=[*curve["high"], *curve["low"][::-1]], fill="toself", mode="lines", opacity=0.25,
        line={"width": 0}, fillcolor=colours[0], hoverinfo="skip", name=f"{100 * found['band']:.0f} % band",
    )  # fmt: skip
    for part, dash, label in ((inside, "solid", "Law"), (beyond, "dash", "Looked ahead")):
        figure.add_scatter(
            x=[cases[k] for k in part], y=[curve["value"][k] for k in part], mode="lines", name=label,
            line={"color": colours[0], "width": 2.5, "dash": dash},
            hovertemplate=f"%{{x:,.0f}} cases: {name} %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    points = found["points"]
    figure.add_scatter(
        x=[p["cases"] for p in points], y=[p["value"] for p in points], mode="markers", name="Trainings",
        marker={"size": 10, "color": colours[1], "line": {"width": 1, "color": "#ffffff"}},
        text=[p["words"] for p in points],
        hovertemplate=f"%{{text}}, %{{x:,}} cases: {name} %{{y:.3f}}<extra></extra>",
    )  # fmt: skip
    at_now = curve["value"][max(inside)]
    goal = at_now - found["goal"] if not found["higher"] else at_now + found["goal"]
    if not found["ceiling"]:
        figure.add_hline(
            y=goal, line={"color": colours[2], "dash": "dot"}, annotation_text=f"{found['goal']:+g}",
            annotation_position="top left",
        )  # fmt: skip
    # A line of plotly's own would put its words at 10 ** now: on an axis of powers it counts notes by their exponent.
    figure.add_shape(
        type="line", x0=now, x1=now, y0=0, y1=1, yref="paper", line={"color": "#8a94a6", "dash": "dot", "width": 1.5}
    )
    figure.add_annotation(
        x=math.log10(now), y=0, yref="paper", text="now", showarrow=False, xanchor="left", yanchor="bottom", xshift=4
    )
    figure.update_layout(
        height=330, margin={"l": 8, "r": 16, "t": 28, "b": 8},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        xaxis={
            "title": "Training cases", "type": "log", "tickformat": ",.0f", "dtick": "D2",
            "range": [math.log10(cases[0] * 0.92), math.log10(cases[-1])],
        }, yaxis={"title": name},
    )  # fmt: skip
    told = ", ".join(f"{p['cases']:,} cases {p['value']:.3f}" for p in points)
    st.plotly_chart(figure, key=f"{KEY}-chart", config={"displayModeBar": False}, alt=f"{name}: {told}")
