"""What comes while a page is being drawn: it blanks no page, and loses nothing that a hand has done."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.WidgetStates_pb2 import WidgetStates
from streamlit.runtime.app_session import AppSession, AppSessionState
from streamlit.runtime.scriptrunner_utils import script_requests as waiting
from streamlit.runtime.state.safe_session_state import SafeSessionState
from streamlit.runtime.state.session_state import SessionState
from streamlit.testing.v1 import AppTest

from pages.kit import late

late.mend()


def timer(page: str) -> waiting.RerunData:
    """What a live part of a page asks at its intervals."""
    return waiting.RerunData(page_script_hash=page, fragment_id="live", is_auto_rerun=True, query_string="run=old")


def pressed(page: str) -> waiting.RerunData:
    """What the browser asks when a button is pressed."""
    states = WidgetStates()
    states.widgets.add(id="button", trigger_value=True)
    return waiting.RerunData(page_script_hash=page, widget_states=states)


@pytest.fixture
def queue() -> waiting.ScriptRequests:
    """The queue of a script that is drawing a page."""
    requests = waiting.ScriptRequests()
    requests.request_rerun(waiting.RerunData(page_script_hash="runs"))
    requests.on_scriptrunner_ready()
    return requests


@pytest.fixture
def drawn(queue: waiting.ScriptRequests, monkeypatch: pytest.MonkeyPatch) -> waiting.ScriptRequests:
    """The same, asked by what is drawn itself: `st.rerun`, `st.switch_page`."""
    here = SimpleNamespace(page_script_hash="runs", script_requests=queue)
    monkeypatch.setattr(late, "get_script_run_ctx", lambda **_: here)
    return queue


def test_a_timer_of_the_page_that_is_drawn_is_answered(queue: waiting.ScriptRequests) -> None:
    assert queue.request_rerun(timer("runs"))
    assert queue.on_scriptrunner_ready().rerun_data.fragment_id_queue == ["live"]


def test_a_timer_does_not_turn_a_way_to_another_page_back(queue: waiting.ScriptRequests) -> None:
    queue.request_rerun(waiting.RerunData(page_script_hash="network", query_string=""))
    assert queue.request_rerun(timer("runs"))
    data = queue.on_scriptrunner_ready().rerun_data
    assert (data.page_script_hash, data.query_string, data.fragment_id_queue) == ("network", "", [])


@pytest.mark.parametrize("own", ["runs", "results"])
def test_a_page_that_asks_for_itself_does_not_turn_a_persons_way_back(
    queue: waiting.ScriptRequests, monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    queue.request_rerun(waiting.RerunData(page_script_hash="network"))
    here = SimpleNamespace(page_script_hash="runs", script_requests=queue)
    monkeypatch.setattr(late, "get_script_run_ctx", lambda **_: here)
    assert queue.request_rerun(waiting.RerunData(page_script_hash=own))
    assert queue.on_scriptrunner_ready().rerun_data.page_script_hash == "network"


def test_a_press_that_waits_for_the_page_to_go_on_leads_to_the_new_one(drawn: waiting.ScriptRequests) -> None:
    with pytest.MonkeyPatch.context() as browser:
        browser.setattr(late, "get_script_run_ctx", lambda **_: None)
        assert drawn.request_rerun(pressed("runs"))
    assert drawn.request_rerun(waiting.RerunData(page_script_hash="results", query_string="run=1"))
    data = drawn.on_scriptrunner_ready().rerun_data
    assert (data.page_script_hash, data.query_string) == ("results", "run=1")
    assert [state.id for state in (data.widget_states or WidgetStates()).widgets] == [
        "button"
    ]  # its callback is called


def test_a_drawing_that_a_press_has_brought_does_not_give_way_until_it_asks_itself(
    drawn: waiting.ScriptRequests,
) -> None:
    drawn.request_rerun(pressed("runs"))
    drawn.on_scriptrunner_ready()
    with pytest.MonkeyPatch.context() as browser:
        browser.setattr(late, "get_script_run_ctx", lambda **_: None)
        assert drawn.request_rerun(waiting.RerunData(page_script_hash="runs"))
    assert drawn.on_scriptrunner_yield() is None
    drawn.request_rerun(waiting.RerunData(page_script_hash="results"))  # st.switch_page
    request = drawn.on_scriptrunner_yield()
    assert request is not None and request.rerun_data.page_script_hash == "results"
    assert drawn.request_rerun(waiting.RerunData(page_script_hash="results"))
    assert drawn.on_scriptrunner_yield() is not None  # the new page was brought by no press


def test_a_drawing_without_a_press_gives_way_at_once(queue: waiting.ScriptRequests) -> None:
    assert queue.request_rerun(waiting.RerunData(page_script_hash="runs"))
    assert queue.on_scriptrunner_yield() is not None


def test_a_drawing_is_stopped_by_force_whatever_has_brought_it(queue: waiting.ScriptRequests) -> None:
    queue.request_rerun(pressed("runs"))
    queue.on_scriptrunner_ready()
    queue.request_stop()  # the tab was shut
    request = queue.on_scriptrunner_yield()
    assert request is not None and request.type == waiting.ScriptRequestType.STOP


def test_a_press_on_a_part_of_the_page_is_never_left_out(queue: waiting.ScriptRequests) -> None:
    assert queue.request_rerun(timer("runs"))
    assert queue.request_rerun(waiting.RerunData(page_script_hash="runs", fragment_id="form", query_string="run=new"))
    data = queue.on_scriptrunner_ready().rerun_data
    assert data.fragment_id_queue == ["live", "form"] and data.query_string == "run=new"


def test_what_a_finished_drawing_has_still_to_say_is_heard_before_the_next_one_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[waiting.RerunData] = []

    def runner(*, initial_rerun_data: waiting.RerunData, **_: object) -> MagicMock:
        begun.append(initial_rerun_data)
        return MagicMock()

    monkeypatch.setattr("streamlit.runtime.app_session.ScriptRunner", runner)
    loop = asyncio.new_event_loop()
    finished = MagicMock()
    finished.request_rerun.return_value = False  # it takes nothing any more, and its end was not heard yet
    session = MagicMock(_scriptrunner=finished, _event_loop=loop, _state=AppSessionState.APP_IS_RUNNING)
    session._create_scriptrunner = lambda data: AppSession._create_scriptrunner(session, data)
    session.request_rerun = lambda state: AppSession.request_rerun(session, state)
    session._pages_manager.get_pages.return_value = {}
    session._client_state = ClientState(page_script_hash="runs")
    try:
        session.request_rerun(ClientState(page_script_hash="runs", fragment_id="live", is_auto_rerun=True))
        loop.run_until_complete(asyncio.sleep(0.05))
        assert not begun and session._scriptrunner is finished
        session._scriptrunner = None  # heard
        loop.run_until_complete(asyncio.sleep(0.05))
        assert [data.fragment_id for data in begun] == ["live"]
    finally:
        loop.close()


def test_to_mend_twice_changes_nothing() -> None:
    before = waiting.ScriptRequests._request_rerun_locked
    late.mend()
    assert waiting.ScriptRequests._request_rerun_locked is before


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
