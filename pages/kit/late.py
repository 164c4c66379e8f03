"""A timer's request that comes late is left out, so that it blanks no page and takes no press back.

A live page (`st.fragment(run_every=...)`) asks for itself at intervals. Streamlit 1.67 loses its way where such a
request reaches the server while a page switches to another or a whole page waits to be drawn:

* The request is run after the switch, although its fragment is gone by then. The browser is told that the old page has
  begun, empties the new one, and nothing is drawn any more.
* Two requests that wait are made one, with the page and the address of the newer one: the person's way to another page
  becomes one back to the old.

Streamlit drops such requests itself where the fragment is gone already when they arrive (`AppSession.request_rerun`);
this does the same for those that wait. A page that is drawn whole starts its own timers anew, so nothing is lost.
"""

from __future__ import annotations

from functools import wraps

from streamlit.runtime.scriptrunner_utils import script_requests as waiting
from streamlit.runtime.scriptrunner_utils.script_run_context import get_script_run_ctx

__all__ = ["mend"]


def mend() -> None:
    """Changes Streamlit's queue of requests for this process; a second call changes nothing.

    Raises:
        AttributeError: this Streamlit has no such queue; look whether it still needs this.
    """
    queue = waiting.ScriptRequests
    if hasattr(queue.request_rerun, "__wrapped__"):
        return
    take, give = queue.request_rerun, queue.on_scriptrunner_ready

    @wraps(take)
    def request_rerun(self: waiting.ScriptRequests, new_data: waiting.RerunData) -> bool:
        """Of a timer and a whole page the page comes: it draws the timer's part, too."""
        with self._lock:
            whole = self._state == waiting.ScriptRequestType.RERUN and not (
                self._rerun_data.fragment_id or self._rerun_data.fragment_id_queue
            )
        return True if whole and new_data.is_auto_rerun else take(self, new_data)

    @wraps(give)
    def on_scriptrunner_ready(self: waiting.ScriptRequests) -> waiting.ScriptRequest:
        """The next request, but for a timer's of a page that has been left."""
        request = give(self)
        while request.type == waiting.ScriptRequestType.RERUN and _of_another_page(request.rerun_data):
            request = give(self)
        return request

    queue.request_rerun = request_rerun  # type: ignore[method-assign]
    queue.on_scriptrunner_ready = on_scriptrunner_ready  # type: ignore[method-assign]


def _of_another_page(data: waiting.RerunData) -> bool:
    """Whether a timer asks for a part of another page than the one that was drawn last."""
    context = get_script_run_ctx(suppress_warning=True)
    if context is None or not data.is_auto_rerun or not data.fragment_id_queue:
        return False
    return data.page_script_hash not in ("", context.page_script_hash)
