"""What comes while a page is being drawn: it blanks no page, and loses nothing that a hand has done."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from streamlit.runtime.scriptrunner_utils import script_requests as waiting
from streamlit.runtime.state.safe_session_state import SafeSessionState
from streamlit.runtime.state.session_state import SessionState
from streamlit.testing.v1 import AppTest

from pages.kit import late

late.mend()

STOP = waiting.ScriptRequestType.STOP


def timer(page: str) -> waiting.RerunData:
    """What a live part of a page asks at its intervals."""
    return waiting.RerunData(page_script_hash=page, fragment_id="live", is_auto_rerun=True, query_string="run=old")


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> waiting.ScriptRequests:
    """The queue of a script that is drawing a page."""
    monkeypatch.setattr(late, "get_script_run_ctx", lambda **_: SimpleNamespace(page_script_hash="runs"))
    requests = waiting.ScriptRequests()
    requests.request_rerun(waiting.RerunData(page_script_hash="runs"))
    requests.on_scriptrunner_ready()
    return requests


def test_a_timer_of_the_page_that_is_drawn_is_answered(queue: waiting.ScriptRequests) -> None:
    assert queue.request_rerun(timer("runs"))
    assert queue.on_scriptrunner_ready().rerun_data.fragment_id_queue == ["live"]


def test_a_timer_of_a_page_that_was_left_while_it_waited_is_left_out(
    queue: waiting.ScriptRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert queue.request_rerun(timer("runs"))
    monkeypatch.setattr(late, "get_script_run_ctx", lambda **_: SimpleNamespace(page_script_hash="network"))
    assert queue.on_scriptrunner_ready().type == STOP  # st.switch_page had gone on to another page meanwhile


def test_a_timer_does_not_turn_a_way_to_another_page_back(queue: waiting.ScriptRequests) -> None:
    queue.request_rerun(waiting.RerunData(page_script_hash="network", query_string=""))
    assert queue.request_rerun(timer("runs"))
    data = queue.on_scriptrunner_ready().rerun_data
    assert (data.page_script_hash, data.query_string, data.fragment_id_queue) == ("network", "", [])


def test_a_press_on_a_part_of_the_page_is_never_left_out(queue: waiting.ScriptRequests) -> None:
    assert queue.request_rerun(timer("runs"))
    assert queue.request_rerun(waiting.RerunData(page_script_hash="runs", fragment_id="form", query_string="run=new"))
    data = queue.on_scriptrunner_ready().rerun_data
    assert data.fragment_id_queue == ["live", "form"] and data.query_string == "run=new"


def test_to_mend_twice_changes_nothing() -> None:
    before = waiting.ScriptRequests.request_rerun
    late.mend()
    assert waiting.ScriptRequests.request_rerun is before


def test_drawings_of_one_session_wait_for_each_other_where_they_look_into_its_state() -> None:
    state, other = SessionState(), SessionState()
    first, second = (SafeSessionState(state, lambda: None) for _ in range(2))
    came = threading.Event()

    def put() -> None:
        second["typed"] = 1
        came.set()

    with first.query_params():  # the first drawing is within the state
        putting = threading.Thread(target=put)
        putting.start()
        SafeSessionState(other, lambda: None)["typed"] = 1  # another person's session does not wait
        assert not came.wait(0.3)
    assert came.wait(10)
    putting.join()
    assert first["typed"] == 1


def a_page() -> None:
    """A field whose callback is interrupted by the next press before it has looked at what was typed."""
    import streamlit as st
    from streamlit.runtime.scriptrunner_utils.script_run_context import get_script_run_ctx

    def typed() -> None:
        context = get_script_run_ctx()
        assert context is not None and context.script_requests is not None
        context.script_requests.request_stop()  # the server makes room for the next press
        st.session_state["written"] = st.session_state["rate"]

    st.number_input("Rate", value=1.0, key="rate", on_change=typed)


def test_a_typed_value_is_not_lost_when_the_next_press_comes_at_once() -> None:
    session = AppTest.from_function(a_page).run()
    session.number_input(key="rate").set_value(10.0).run()
    assert not session.exception
    assert session.session_state["written"] == 10.0
