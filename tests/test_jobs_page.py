"""Short jobs on a page: a result is drawn, however quickly it comes."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from builder.runs import RunStore


def jobs_page() -> None:
    import streamlit as st

    from builder.execute import home
    from builder.runs import Finished, Record, RunStore, Started, write_atomic
    from pages.kit import jobs

    st.session_state["drawings"] = st.session_state.get("drawings", 0) + 1
    if st.button("Ask", key="ask"):
        jobs.submit("predict", {}, "slot")
    told = jobs.result("slot")
    st.text(f"result: {told}")
    job = jobs.of_slot("slot")
    if job is not None and told is None and st.session_state.get("ends") == "within":
        # The worker ends it in the middle of this drawing.
        with Record(job.folder / "events.jsonl") as record:
            record.append(Started())
            write_atomic(job.folder / "result.json", '{"answer": 42}')
            record.append(Finished("done"))
        RunStore(home()).job(job.id).marker.unlink()
    jobs.watch("slot", "Asking")


@pytest.fixture
def page(home: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setattr("builder.execute.LocalExecutor.ensure", lambda self: None)  # nobody else works on it
    return AppTest.from_function(jobs_page, default_timeout=20).run()


def test_a_job_that_ends_while_the_page_is_drawn_is_shown(page: AppTest) -> None:
    page.session_state["ends"] = "within"
    page.button(key="ask").click().run()
    assert not page.exception
    assert page.text[0].value == "result: {'answer': 42}"
    drawings = page.session_state["drawings"]
    page.run()
    assert page.session_state["drawings"] == drawings + 1  # once more, not again and again


def test_a_job_that_waits_or_works_is_watched_and_can_be_stopped(page: AppTest, home: Path) -> None:
    page.button(key="ask").click().run()
    assert page.text[0].value == "result: None"
    page.button(key="stop-slot").click().run()
    (job,) = RunStore(home).jobs()
    assert not page.exception and job.stop_wanted
