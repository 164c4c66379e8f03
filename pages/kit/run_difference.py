"""Is the second run shown to be better than the first? The same cases, the same draws of patients."""

from __future__ import annotations

import streamlit as st

from builder.runs import Run, StoreError
from pages.kit import curves, jobs, style
from pages.kit.run_list import labels_of
from pages.kit.words import amount, plain

__all__ = ["SLOT", "shown_better"]

SLOT = "compare"
_SIDES = {"val": "Validation scans", "test": "Test scans"}
_MARKS = {
    "better": ":green[:material/trending_up:]",
    "worse": ":red[:material/trending_down:]",
    "not shown": ":gray[:material/drag_handle:]",
}


def shown_better(runs: list[Run]) -> None:
    """The card about the first two runs that are shown."""
    (first, one), (second, two) = sorted(  # the older first: whether the newer one has brought anything
        zip(runs[:2], map(plain, labels_of(runs)[:2]), strict=True), key=lambda pair: pair[0].id
    )
    slot = f"{SLOT}-{first.id}-{second.id}"
    jobs.keep_in_url(slot)
    with style.card("Is one shown to be better?", key="difference"):
        job, told = jobs.of_slot(slot), jobs.result(slot)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            st.segmented_control(
                "On", list(_SIDES), default="val", required=True, key="difference-side", format_func=_SIDES.__getitem__
            )
            st.button(
                "Compare",
                key="compare-go",
                icon=":material/compare_arrows:",
                disabled=job is not None and job.view().active,
                help="Both networks are judged on the same cases; the interval is that of the difference. The test "
                "side is not opened by this: both must have been evaluated on it.",
                on_click=ask,
                args=(first, second, slot),
            )
        if told is not None:
            st.caption(
                f"**{two}** against **{one}** on {told['n']:,} cases of {amount(told['patients'], 'patient')}: "
                f"{_SIDES[told['split']].lower()}, best networks, 95 % intervals of the difference over patients."
            )
            rows = []
            for name, figure in told["metrics"].items():
                cells = [
                    _MARKS.get(figure["verdict"], ""),
                    plain(curves.name_words(f"val/{name}").removeprefix("validation ")),
                ]
                cells += [_number(figure["first"]), _number(figure["second"]), plain(figure["words"])]
                rows.append(f"| {' | '.join(cells)} |")
            head = f"| | Figure | {one} | {two} | What can be said |\n|---|---|---|---|---|\n"
            st.markdown(head + "\n".join(rows).replace("The second is", f"{two} is"))
            for note in told["notes"]:
                st.caption(f":material/info: {plain(note)}")
    jobs.watch(slot, "Asking both networks")


def ask(first: Run, second: Run, slot: str) -> None:
    """Submits the comparison, on the side that is chosen now: the button may be from before the last choice."""
    split = str(st.session_state["difference-side"])
    try:
        jobs.submit("compare", {"first": first.id, "second": second.id, "split": split}, slot)
    except StoreError as error:
        st.session_state["runs-refused"] = str(error)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
