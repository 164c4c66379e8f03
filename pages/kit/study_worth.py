"""What is the winner of a search worth? Against the default over fresh seeds, and with the search inside each fold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from builder import nested, seeds
from builder.execute import home
from builder.nested import Nested
from builder.parting import Parting
from builder.rounds import RoundStore
from builder.runs import StoreError
from builder.search.studies import Study, StudyView
from pages.kit import charts, figures, go, rounds, style
from pages.kit.study_list import view_of
from pages.kit.words import plain

__all__ = ["cards"]

_LOOK_S = 2.0
_SEEDS = (3, 5, 10)
_FOLDS = (3, 5)
SEEDS_KEY, NESTED_KEY = "worth-seeds", "worth-nested"


def cards(study: Study) -> None:
    """The two questions about a winner, once a search with one objective has ended; nothing before, and nothing of a
    search inside a fold: it is itself a part of an answer, and its sides are not those of the data set."""
    try:
        view, own = view_of(study), Parting.of(study.folder)
    except (StoreError, OSError, ValueError):
        return
    if view.active or view.best is None or not view.best.run or own is not None:
        return
    with style.card("What is the winner worth?", key="worth"):
        st.caption(
            "The best of many trials is partly the luckiest of them, and its figure is that of the scans it was chosen "
            "by. Three ways to a figure that one can believe:"
        )
        if st.button(
            "Cross-validate the winner", key="worth-folds", icon=":material/splitscreen:",
            help="On its Results page: every scan outside the test side is held out once.",
        ):  # fmt: skip
            go.to("results", run=view.best.run)
        left, right = st.columns(2, gap="large")
        with left:
            _against_default(study, view)
        with right:
            _inside_folds(study, view)


def _against_default(study: Study, view: StudyView) -> None:
    st.markdown("**Is it better than the default?** Both are trained again with seeds that the search never used.")
    rounds.refused(SEEDS_KEY)
    assert view.best is not None
    winner = study.trial(view.best.number)
    # Every trial's best epoch was chosen by what the search looks for: so must the default's.
    default = study.experiment.replace("training.monitor", winner.training.monitor)
    one = next((r for r in RoundStore(home()).about(winner, seeds.KIND) if r.plan.get("of") == study.id), None)
    if one is not None:
        rounds.followed(one, SEEDS_KEY, "Winner and default", _drawn_seeds)
        return
    num = st.segmented_control("Seeds", _SEEDS, default=3, key=f"{SEEDS_KEY}-num", required=True)

    def start() -> None:
        rounds.begin(
            lambda: seeds.begin(home(), default, winner, int(num or 3), of=study.id),
            SEEDS_KEY,
            lambda: rounds.is_going(winner, seeds.KIND),
        )

    st.button("Train both again", key=f"{SEEDS_KEY}-begin", icon=":material/casino:", on_click=start)
    st.caption(rounds.cost(2 * int(num or 3), view.best.seconds))


def _drawn_seeds(found: Mapping[str, Any]) -> None:
    """The sentence, and a line a seed from the default to the winner."""
    import plotly.graph_objects as go_

    name = figures.metric_words(str(found["headline"]))
    st.markdown(plain(str(found["words"]).replace(str(found["headline"]), name)))
    colours, figure = charts.palette(), go_.Figure()
    for row in found["by_seed"]:
        figure.add_scatter(
            x=["Default", "Winner"], y=[row["default"], row["winner"]], mode="lines+markers", showlegend=False,
            line={"color": colours[0], "width": 2}, marker={"size": 9, "color": ["#8a94a6", colours[0]]},
            hovertemplate=f"seed {row['seed']}, %{{x}}: {name} %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        height=240, margin={"l": 8, "r": 8, "t": 8, "b": 8}, yaxis={"title": name}, xaxis={"range": [-0.3, 1.3]}
    )
    told = "; ".join(f"seed {r['seed']}: {r['default']:.3f} and {r['winner']:.3f}" for r in found["by_seed"])
    st.plotly_chart(
        figure, key=f"{SEEDS_KEY}-chart", config={"displayModeBar": False}, alt=f"{name} of default and winner, {told}"
    )
    for note in found["notes"]:
        st.caption(plain(note))


def _inside_folds(study: Study, view: StudyView) -> None:
    st.markdown(
        "**Has the search fooled itself?** A whole search inside each fold; its winner answers scans that chose "
        "nothing."
    )
    rounds.refused(NESTED_KEY)
    one = next(iter(nested.known(home(), study.id)), None)
    if one is not None:
        _followed(one)
        return
    num = st.segmented_control("Folds", _FOLDS, default=3, key=f"{NESTED_KEY}-num", required=True)

    def start() -> None:
        rounds.begin(
            lambda: nested.begin(home(), study.experiment, int(num or 3), of=study.id),
            NESTED_KEY,
            lambda: bool(nested.known(home(), study.id)),  # a second one is offered nowhere
        )

    st.button("Search inside each fold", key=f"{NESTED_KEY}-begin", icon=":material/account_tree:", on_click=start)
    per = sum(trial.seconds for trial in view.trials)
    st.caption(rounds.cost(int(num or 3), per).replace("trainings", "searches").replace("This one", "This search"))


def _followed(one: Nested) -> None:
    views = one.views()
    found = one.result(views)
    if found is not None:
        _drawn_nested(found)
    elif any(view.active for view in views):
        st.fragment(run_every=_LOOK_S, key=f"{NESTED_KEY}-look")(_going)(one)
    elif any(view.status != "done" for view in views):
        still = [view for view in views if view.status != "done"]
        st.warning(
            f"{len(views) - len(still)} of {len(views)} searches have ended; the others stand still. {still[0].reason}",
            icon=":material/pause_circle:",
        )
        with st.container(horizontal=True):
            st.button(
                "Go on", key=f"{NESTED_KEY}-resume", type="primary", icon=":material/play_arrow:",
                on_click=rounds.begin, args=(one.resume, NESTED_KEY),
            )  # fmt: skip
            st.button(
                "Put away", key=f"{NESTED_KEY}-forget", icon=":material/close:",
                on_click=rounds.begin, args=(lambda: nested.forget(one), NESTED_KEY),
            )  # fmt: skip
    else:
        rounds.asked({"nested": one.id}, f"{NESTED_KEY}-{one.id}", NESTED_KEY, lambda: nested.forget(one))


def _going(one: Nested) -> None:
    views = one.views()
    if not any(view.active for view in views):
        st.rerun()
    ended = sum(sum(trial.ended for trial in view.trials) for view in views)
    wanted = max(1, sum(view.wanted for view in views))
    st.progress(min(1.0, ended / wanted), text=f"**Searching inside the folds** · {ended} of {wanted} trials")
    if any(view.stopping for view in views):
        st.caption("Stopping ...")
    else:
        st.button("Stop", key=f"{NESTED_KEY}-stop", icon=":material/stop:", on_click=one.stop)


def _drawn_nested(found: Mapping[str, Any]) -> None:
    """The sentence, and for each fold the winner's own figure beside that on what was held out."""
    import plotly.graph_objects as go_

    name = figures.metric_words(str(found["objective"]))
    words = plain(str(found["words"]).replace(str(found["objective"]), name))
    st.markdown(f":orange[:material/warning:] {words}" if found["over_fitted"] else words)
    colours = charts.palette()
    rows = [row for row in found["members"] if None not in (row["own"], row["held_out"])]
    figure = go_.Figure()
    for label, key, colour in (("By its own scans", "own", "#8a94a6"), ("Held out", "held_out", colours[0])):
        figure.add_scatter(
            x=[row["words"] for row in rows], y=[row[key] for row in rows], mode="markers", name=label,
            marker={"size": 12, "color": colour}, hovertemplate=f"%{{x}}, {label}: {name} %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        height=240, margin={"l": 8, "r": 8, "t": 28, "b": 8}, yaxis={"title": name},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    told = "; ".join(f"{r['words']}: own {r['own']:.3f}, held out {r['held_out']:.3f}" for r in rows)
    st.plotly_chart(figure, key=f"{NESTED_KEY}-chart", config={"displayModeBar": False}, alt=f"{name}, {told}")
