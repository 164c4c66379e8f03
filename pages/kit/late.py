"""What comes while a page is being drawn neither blanks a page nor loses what a hand has done.

Streamlit 1.67 draws a page in a thread that gives way wherever it may: a press begins the next drawing while the last
one still goes on, and a live part (`st.fragment(run_every=...)`) asks for itself at intervals. Four things go wrong:

* A timer's request that waits while a page switches to another is run after the switch, although its fragment is gone
  by then. The browser is told that the old page has begun, empties the new one, and nothing is drawn any more.
* Two requests that wait are made one, with the page and the address of the newer one: the person's way to another page
  becomes one back to the old, if the newer one is a timer's.
* The thread gives way inside a widget's callback, too, at its first look into the session. The callback is then lost:
  the value counts as told, but nothing has been done with it.
* The last drawing and the next one share the session's state, but each has a lock of its own: where the one empties it
  while the other goes through it, the press ends in "dictionary changed size during iteration", and no page comes.

Streamlit drops a timer's request itself where its fragment is gone when it arrives (`AppSession.request_rerun`), and
looks for requests right after the callbacks; so nothing is kept waiting here that it would not wait for anyhow.
docs/decisions/0021 says how this was found and when it can go.
"""

from __future__ import annotations

import threading
from functools import wraps
from typing import Any

from streamlit.runtime.scriptrunner.script_runner import ScriptRunner
from streamlit.runtime.scriptrunner_utils import script_requests as waiting
from streamlit.runtime.scriptrunner_utils.script_run_context import get_script_run_ctx
from streamlit.runtime.state.safe_session_state import SafeSessionState
from streamlit.runtime.state.session_state import SessionState

__all__ = ["mend"]

_here = threading.local()


def mend() -> None:
    """Changes Streamlit for this process, before its first page is drawn; a second call changes nothing.

    Raises:
        AttributeError: this Streamlit has no such methods; look whether it still needs this.
    """
    if not hasattr(waiting.ScriptRequests.request_rerun, "__wrapped__"):
        _whole_pages_first()
        _no_timers_of_left_pages()
        _whole_callbacks()
        _one_lock_a_session()


def _whole_pages_first() -> None:
    """Of a timer and a whole page the page comes: it draws the timer's part, too."""
    queue = waiting.ScriptRequests
    take = queue.request_rerun

    @wraps(take)
    def request_rerun(self: waiting.ScriptRequests, new_data: waiting.RerunData) -> bool:
        with self._lock:
            whole = self._state == waiting.ScriptRequestType.RERUN and not (
                self._rerun_data.fragment_id or self._rerun_data.fragment_id_queue
            )
        return True if whole and new_data.is_auto_rerun else take(self, new_data)

    queue.request_rerun = request_rerun  # type: ignore[method-assign]


def _no_timers_of_left_pages() -> None:
    """The next request is no timer's of a page that was left while it waited."""
    queue = waiting.ScriptRequests
    give = queue.on_scriptrunner_ready

    @wraps(give)
    def on_scriptrunner_ready(self: waiting.ScriptRequests) -> waiting.ScriptRequest:
        request = give(self)
        while request.type == waiting.ScriptRequestType.RERUN and _of_another_page(request.rerun_data):
            request = give(self)
        return request

    queue.on_scriptrunner_ready = on_scriptrunner_ready  # type: ignore[method-assign]


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


def _of_another_page(data: waiting.RerunData) -> bool:
    """Whether a timer asks for a part of another page than the one that was drawn last."""
    context = get_script_run_ctx(suppress_warning=True)
    if context is None or not data.is_auto_rerun or not data.fragment_id_queue:
        return False
    return data.page_script_hash not in ("", context.page_script_hash)
