"""What comes while a page is being drawn neither blanks a page nor loses what a hand has done.

Streamlit 1.67 draws a page in a thread that gives way wherever it may: the next request begins the next drawing while
the last one still goes on, and pages ask of themselves, too: a live part (`st.fragment(run_every=...)`) at intervals, a
component when it has come. What goes wrong, and what is done here instead:

* A press is lost where the next request comes before its button is reached, or before what it asked for is done. A
  drawing that a press has brought goes to its end, and what comes meanwhile waits for it.
* A request that the browser sent before it had heard of the page that the server went on to leads back to the old page,
  or empties the new one. Such a request counts as one of the new page; a timer's is left out.
* A part of a page asks for itself in the moment in which the whole page has been drawn: the server takes a new thread
  for it, and no longer listens to the old one, whose last words are still on their way. The end of the page is missing,
  for good. It waits for them.
* Two requests that wait are made one, with the page and the address of the newer one: the person's way to another page
  becomes one back to the old, if the newer one is a timer's or the page's own. The person's way stays.
* The thread gives way inside a widget's callback, too, at its first look into the session. The callback is then lost:
  the value counts as told, but nothing has been done with it. Callbacks are carried through.
* The last drawing and the next one share the session's state, but each has a lock of its own: where the one empties it
  while the other goes through it, the press ends in "dictionary changed size during iteration", and no page comes. One
  lock a session.

docs/decisions/0021 says how each was found, and when this can go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.runtime.app_session import AppSession
from streamlit.runtime.scriptrunner.script_runner import ScriptRunner
from streamlit.runtime.scriptrunner_utils import script_requests as waiting
from streamlit.runtime.scriptrunner_utils.script_run_context import get_script_run_ctx
from streamlit.runtime.state.safe_session_state import SafeSessionState
from streamlit.runtime.state.session_state import SessionState

__all__ = ["mend"]

_here = threading.local()
_SOON_S = 0.005


@dataclass
class _Drawing:
    """What a queue of requests knows of the drawing that they wait for."""

    page: str = ""  # the page it leads to, by its hash: that of the newest request, the browser's or the page's own
    query: str = ""  # that page's address
    presses: tuple[str, ...] = ()  # the widgets whose press has brought it, by their ids
    pressed: bool = False  # one of them may still be waiting for the drawing to reach it: no callback has dealt with it
    asks: bool = False  # it has itself asked to be drawn anew or for another page, and so is at its end


def mend() -> None:
    """Changes Streamlit for this process, before its first page is drawn; a second call changes nothing.

    Raises:
        AttributeError: this Streamlit has no such methods; look whether it still needs this.
    """
    if not hasattr(waiting.ScriptRequests._request_rerun_locked, "__wrapped__"):
        _the_persons_way_first()
        _presses_to_their_end()
        _late_ones_to_the_new_page()
        _whole_callbacks()
        _one_lock_a_session()


def _the_persons_way_first() -> None:
    """A whole page that waits is not replaced by a timer's request, nor by one of the page that it leaves."""
    queue = waiting.ScriptRequests
    take = queue._request_rerun_locked

    @wraps(take)
    def _request_rerun_locked(self: waiting.ScriptRequests, new_data: waiting.RerunData) -> bool:
        drawing, waits = _drawing(self), None
        if self._state == waiting.ScriptRequestType.RERUN and waiting._is_full_app_rerun(self._rerun_data):
            waits = self._rerun_data
        if waits is not None and new_data.is_auto_rerun:
            return True  # a whole page draws the timer's part, too
        context = get_script_run_ctx(suppress_warning=True)
        if context is not None and context.script_requests is self:
            drawing.asks = True
            drawn = context.page_script_hash
            if waits is not None and (new_data.page_script_hash == drawn or waits.page_script_hash != drawn):
                return True
        drawing.page, drawing.query = new_data.page_script_hash, new_data.query_string
        return take(self, new_data)

    queue._request_rerun_locked = _request_rerun_locked  # type: ignore[method-assign]


def _presses_to_their_end() -> None:
    """A drawing that a press has brought does not give way, and no other drawing begins beside it."""
    queue = waiting.ScriptRequests
    ready, give_way, start, ask = (
        queue.on_scriptrunner_ready,
        queue.on_scriptrunner_yield,
        AppSession._create_scriptrunner,
        AppSession.request_rerun,
    )

    @wraps(ready)
    def on_scriptrunner_ready(self: waiting.ScriptRequests) -> waiting.ScriptRequest:
        return _taken(self, ready)

    @wraps(give_way)
    def on_scriptrunner_yield(self: waiting.ScriptRequests) -> waiting.ScriptRequest | None:
        if self._state == waiting.ScriptRequestType.CONTINUE:
            return None  # asked thousands of times a page
        drawing = _drawing(self)
        if drawing.pressed and not drawing.asks and self._state == waiting.ScriptRequestType.RERUN:
            return None
        return _taken(self, give_way)

    @wraps(ask)
    def request_rerun(self: AppSession, client_state: ClientState | None) -> None:
        runner = self._scriptrunner
        if runner is None or not _holds_a_press(runner._requests):
            ask(self, client_state)
            return
        # Without a runner that it knows of, the session stops none and asks for a new one: `_create_scriptrunner`.
        self._scriptrunner, vars(self)["_kept_runner"] = None, runner
        try:
            ask(self, client_state)
        finally:
            del vars(self)["_kept_runner"]
            if self._scriptrunner is None:
                self._scriptrunner = runner

    @wraps(start)
    def _create_scriptrunner(self: AppSession, initial_rerun_data: waiting.RerunData) -> None:
        kept: ScriptRunner | None = vars(self).get("_kept_runner")
        if kept is not None and kept.request_rerun(initial_rerun_data):
            self._scriptrunner = kept
        elif (self._scriptrunner or kept) is not None and initial_rerun_data.fragment_id:
            # The last drawing is done, but its last words are still on their way. Asked anew, not passed on: by then
            # the page may be another.
            self._scriptrunner = self._scriptrunner or kept
            self._event_loop.call_later(_SOON_S, self.request_rerun, vars(self)["_asked"])
        else:
            start(self, initial_rerun_data)

    queue.on_scriptrunner_ready = on_scriptrunner_ready  # type: ignore[method-assign]
    queue.on_scriptrunner_yield = on_scriptrunner_yield  # type: ignore[method-assign]
    AppSession.request_rerun = request_rerun  # type: ignore[method-assign]
    AppSession._create_scriptrunner = _create_scriptrunner  # type: ignore[method-assign]


def _late_ones_to_the_new_page() -> None:
    """What the browser sent from a page that the server has left is asked of the page that the server has gone to."""
    ask = AppSession.request_rerun

    @wraps(ask)
    def request_rerun(self: AppSession, client_state: ClientState | None) -> None:
        vars(self)["_asked"] = client_state
        page, query = self._client_state.page_script_hash, self._client_state.query_string
        if self._scriptrunner is not None:
            drawing = _drawing(self._scriptrunner._requests)
            page, query = drawing.page, drawing.query
        if client_state is not None and page not in ("", client_state.page_script_hash) and _stays(self, client_state):
            if client_state.is_auto_rerun:
                return
            late, client_state = client_state, ClientState()
            client_state.CopyFrom(late)
            client_state.page_script_hash, client_state.query_string, client_state.fragment_id = page, query, ""
        ask(self, client_state)

    AppSession.request_rerun = request_rerun  # type: ignore[method-assign]


def _whole_callbacks() -> None:
    """Whoever interrupts the drawing waits until the callbacks of the last press are done."""
    call, give_way = SafeSessionState.on_script_will_rerun, ScriptRunner._maybe_handle_execution_control_request

    @wraps(call)
    def on_script_will_rerun(self: SafeSessionState, *args: Any, **kwargs: Any) -> None:
        self._yield_callback()
        _here.calling = True
        try:
            call(self, *args, **kwargs)
        finally:
            _here.calling = False
            _callbacks_are_done(self._state)

    @wraps(give_way)
    def _maybe_handle_execution_control_request(self: ScriptRunner) -> None:
        if not getattr(_here, "calling", False):
            give_way(self)

    SafeSessionState.on_script_will_rerun = on_script_will_rerun  # type: ignore[method-assign]
    ScriptRunner._maybe_handle_execution_control_request = _maybe_handle_execution_control_request  # type: ignore[method-assign]


def _one_lock_a_session() -> None:
    """Drawings that share a session's state wait for each other where they look into it."""
    make = SafeSessionState.__init__

    @wraps(make)
    def __init__(self: SafeSessionState, state: SessionState, *args: Any, **kwargs: Any) -> None:
        make(self, state, *args, **kwargs)
        # The state takes no names, but this part of it does, and lives as long. `setdefault` is one step of the
        # interpreter: two drawings that begin at the same time find the same lock.
        object.__setattr__(self, "_lock", vars(state.query_params).setdefault("_one_lock", self._lock))

    SafeSessionState.__init__ = __init__  # type: ignore[method-assign]


def _drawing(requests: waiting.ScriptRequests) -> _Drawing:
    """What is known of the drawing that these requests wait for, kept with them."""
    found: _Drawing = vars(requests).setdefault("_drawing", _Drawing())
    return found


def _presses(data: waiting.RerunData) -> tuple[str, ...]:
    """The widgets that a request says were pressed, by their ids."""
    told = data.widget_states.widgets if data.widget_states is not None else ()
    return tuple(state.id for state in told if waiting._has_active_trigger_value(state))


def _holds_a_press(requests: waiting.ScriptRequests) -> bool:
    """Whether a press is being drawn, or waits for it."""
    with requests._lock:
        waits = requests._state == waiting.ScriptRequestType.RERUN
        return _drawing(requests).pressed or (waits and bool(_presses(requests._rerun_data)))


def _taken(
    requests: waiting.ScriptRequests, take: Callable[[waiting.ScriptRequests], waiting.ScriptRequest | None]
) -> Any:
    """Takes the next request; from here on its presses count as being drawn, without a moment in between."""
    drawing = _drawing(requests)
    before = drawing.pressed
    drawing.pressed = _holds_a_press(requests)
    request = take(requests)
    if request is None:
        drawing.pressed = before
    else:
        rerun = request.type == waiting.ScriptRequestType.RERUN
        drawing.presses, drawing.asks = _presses(request.rerun_data) if rerun else (), False
        drawing.pressed = bool(drawing.presses)
    return request


def _callbacks_are_done(state: SessionState) -> None:
    """A press that callbacks have dealt with keeps nobody waiting any longer."""
    context = get_script_run_ctx(suppress_warning=True)
    if context is None or context.script_requests is None:
        return
    drawing = _drawing(context.script_requests)
    about = state._new_widget_state.widget_metadata
    drawing.pressed = any(
        (known := about.get(id)) is None or (known.callback is None and known.callbacks is None)
        for id in drawing.presses
    )


def _stays(session: AppSession, client_state: ClientState) -> bool:
    """Whether the browser asks for the page that it shows: no way to another page, and none through its history."""
    asked = session._pages_manager.get_pages().get(client_state.page_script_hash)
    if asked is None or client_state.is_history_navigation:
        return False
    return urlsplit(client_state.context_info.url).path.rpartition("/")[2] == asked.get("url_pathname", "")
