"""The draft: the experiment being edited, written to disk at each change.

A draft is a file `home/drafts/<id>.jsonl` of appended lines; nothing in it is ever rewritten. A line is an edit (the
whole document after it), an undo or a redo, or whose branch the draft is; the current document is the fold of the
lines. The id lives in the URL (`?draft=`), so a reload, a restart of the server or a second tab finds the same
document; what Streamlit's session keeps is only a cache. Two tabs may edit one draft: each edit is applied to the
newest document under a lock, so neither loses the other's.

Beside the document a draft keeps how the network lies on the canvas (`layout`). It is part of the steps that undo takes
back, but not of the experiment: it changes no result, no digest and no file that is saved. And a draft knows whether it
is a branch, and of which run (`origin`).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, ParamSpec

import streamlit as st

from builder.execute import home
from builder.spec import Experiment, SpecError
from pages.kit import address
from pages.kit.words import path_words, plain, value_words

__all__ = ["Draft", "DraftMissing", "Summary", "choose", "current", "keep_in_url", "recent", "spared"]

_P = ParamSpec("_P")
PARAM = "draft"
_ID = re.compile(r"[0-9a-f]{16}")
_JOIN_S = 2.0  # edits of one path within this time are one step of undo: a slider being dragged
_KEPT_STEPS = 300
_GONE = "This draft was deleted in another tab. Open another one on the Home page."


class DraftMissing(LookupError):
    """The draft does not exist. Its text is a sentence for people."""


class DraftUnread(DraftMissing):
    """The draft is there, but its newest document means nothing here: a newer ScanLoom wrote it."""


@dataclass(frozen=True)
class _Version:
    text: str  # the document as compact JSON
    words: str
    path: str
    at: float
    number: int  # of the edit in the file: the same in every process
    layout: str  # how the network lies on the canvas, as compact JSON


@dataclass
class _Fold:
    """The state after the lines read so far."""

    versions: list[_Version] = field(default_factory=list)
    cursor: int = -1
    offset: int = 0
    edits: int = 0
    joinable: bool = False
    origin: tuple[str, bool] | None = None  # the run that it goes on from, and whether from its best epoch
    told: dict[str, int] = field(default_factory=dict)  # by who asked for lines: the highest number they gave
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, file: Path) -> None:
        """Folds what was appended since the last call. A torn or foreign line is left out; an unfinished one waits."""
        if file.stat().st_size == self.offset:  # a page asks hundreds of times while it is drawn
            return
        with file.open("rb") as lines:
            lines.seek(self.offset)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                self.offset += len(line)
                try:
                    entry = json.loads(line)
                    self._step(entry)
                except (ValueError, KeyError, TypeError):
                    continue  # a crash tore this line; the edits before and after it stand

    def _step(self, entry: dict[str, Any]) -> None:
        op = entry["op"]
        if "told" in entry:
            who, number = str(entry["told"][0]), int(entry["told"][1])
            self.told[who] = max(number, self.told.get(who, 0))
        if op == "branch":
            run, best = str(entry["run"]), bool(entry["best"])
            self.origin = (run, best) if run else None
        elif op == "undo":
            self.cursor, self.joinable = max(0, self.cursor - 1), False
        elif op == "redo":
            self.cursor, self.joinable = min(len(self.versions) - 1, self.cursor + 1), False
        elif op == "edit":
            text = json.dumps(entry["experiment"], separators=(",", ":"))
            last = self.versions[self.cursor] if self.cursor >= 0 else None
            told = entry.get("layout")
            layout = json.dumps(told, separators=(",", ":")) if told is not None else last.layout if last else "{}"
            words, path = str(entry.get("words", "")), str(entry.get("path", ""))
            new = _Version(text, words, path, float(entry["at"]), self.edits, layout)
            self.edits += 1
            joins = self.joinable and last and new.path and last.path == new.path and new.at - last.at < _JOIN_S
            del self.versions[self.cursor + 1 :]
            if joins and len(self.versions) > 1:
                self.versions[-1] = new
            else:
                self.versions.append(new)
            surplus = len(self.versions) - _KEPT_STEPS
            if surplus > 0:
                del self.versions[:surplus]
            self.cursor, self.joinable = len(self.versions) - 1, True


_folds: dict[Path, _Fold] = {}
_folds_lock = threading.Lock()


def _fold_of(file: Path) -> _Fold:
    with _folds_lock:
        while len(_folds) >= 32 and file not in _folds:
            _folds.pop(next(iter(_folds)))
        fold = _folds.pop(file, None) or _Fold()
        _folds[file] = fold  # newest last
        return fold


@lru_cache(maxsize=256)
def _parsed(text: str) -> Experiment:
    return Experiment.loads(text)


@dataclass(frozen=True)
class Summary:
    """What a list of drafts shows: id, name and task of the newest document, when it changed, how many steps it has."""

    id: str
    name: str
    task: str
    at: float
    steps: int


class Draft:
    """An experiment being edited. Every change is on disk when its method returns.

    All methods raise DraftMissing for a draft that was deleted meanwhile.
    """

    def __init__(self, id: str, folder: Path):
        self.id = id
        self._file = folder / f"{id}.jsonl"
        self._fold = _fold_of(self._file)

    @classmethod
    def create(cls, experiment: Experiment, words: str = "Started", *, at_home: Path | None = None) -> Draft:
        """Writes a new draft that holds `experiment` and returns it."""
        folder = (at_home or home()) / "drafts"
        folder.mkdir(parents=True, exist_ok=True)
        draft = cls(secrets.token_hex(8), folder)
        draft._file.touch(mode=0o600)
        draft.put(experiment, words)
        return draft

    @classmethod
    def open(cls, id: str, *, at_home: Path | None = None) -> Draft:
        """Returns the draft with this id.

        Raises:
            DraftMissing: there is none, or the file holds no complete edit; DraftUnread: this ScanLoom cannot read it.
        """
        folder = (at_home or home()) / "drafts"
        if not _ID.fullmatch(id) or not (folder / f"{id}.jsonl").is_file():
            raise DraftMissing("This draft does not exist (any more). Open another one on the Home page.")
        draft = cls(id, folder)
        draft._refresh()
        if draft._fold.cursor < 0:
            raise DraftMissing("This draft is empty. Open another one on the Home page.")
        try:
            _ = draft.experiment
        except SpecError as error:
            raise DraftUnread(f"This experiment cannot be read here: {error}") from None
        return draft

    def _refresh(self) -> _Fold:
        with self._fold.lock:
            try:
                self._fold.read(self._file)
            except FileNotFoundError:
                raise DraftMissing(_GONE) from None
        return self._fold

    @property
    def experiment(self) -> Experiment:
        """The current document. Raises SpecError where a newer ScanLoom wrote it."""
        fold = self._refresh()
        return _parsed(fold.versions[fold.cursor].text)

    @property
    def layout(self) -> dict[str, Any]:
        """How the network lies on the canvas; {} = as the canvas puts it by itself."""
        fold = self._refresh()
        return dict(json.loads(fold.versions[fold.cursor].layout))

    @property
    def steps(self) -> tuple[int | None, int, int | None]:
        """Numbers that name the version before, the present and the next one, the same in every tab; None = none."""
        fold = self._refresh()
        near = range(fold.cursor - 1, fold.cursor + 2)
        before, now, after = (fold.versions[k].number if 0 <= k < len(fold.versions) else None for k in near)
        assert now is not None, "an opened draft has a version"
        return before, now, after

    @property
    def name(self) -> str:
        """The experiment's name, or words for an unnamed one."""
        return self.experiment.name or "Unnamed experiment"

    @property
    def origin(self) -> tuple[str, bool] | None:
        """The run that this draft goes on from, and whether from its best epoch; None for an experiment of its own."""
        return self._refresh().origin

    def goes_on_from(self, run: str, *, best: bool = False) -> None:
        """From now on the draft is a branch of `run` ("": an experiment of its own), in every tab. No step of undo."""
        with self._alone():
            if self.origin != ((run, best) if run else None):
                self._append({"op": "branch", "run": run, "best": best, "at": time.time()})

    @property
    def undo_words(self) -> str:
        """What an undo would take back, in words; "" when there is nothing to undo."""
        fold = self._refresh()
        return fold.versions[fold.cursor].words or "last change" if fold.cursor > 0 else ""

    @property
    def redo_words(self) -> str:
        """What a redo would bring back, in words; "" when there is nothing to redo."""
        fold = self._refresh()
        follows = fold.cursor + 1 < len(fold.versions)
        return fold.versions[fold.cursor + 1].words or "last change" if follows else ""

    def replace(self, path: str, value: Any, words: str = "") -> Experiment:
        """Sets the choice at `path` in the newest document and returns the document.

        Raises:
            SpecError (of builder.spec): the path or the value does not fit; nothing is written then.
        """
        with self._alone():
            old = self.experiment
            new = old.replace(path, value)
            if new != old:
                self._append_edit(new, words or f"{path_words(path)} to {value_words(value)}", path)
            return new

    def apply(self, change: Callable[[Experiment], Experiment], words: str) -> Experiment:
        """Applies `change` to the newest document as one step, and returns the document.

        What `change` raises is passed on; nothing is written then, nor where nothing has changed.
        """
        return self.edit(lambda now, layout: (change(now), layout), words)

    def put(self, experiment: Experiment, words: str) -> None:
        """Makes `experiment` the current document, whatever it was: for loaded files. All else is for `apply`."""
        with self._alone():
            fold = self._refresh()
            if fold.cursor < 0 or _parsed(fold.versions[fold.cursor].text) != experiment:
                self._append_edit(experiment, words, "")

    def edit(
        self,
        change: Callable[[Experiment, dict[str, Any]], tuple[Experiment, dict[str, Any]]],
        words: str,
        told: tuple[str, int] | None = None,
    ) -> Experiment:
        """Applies `change` to the newest document and layout as one step, and returns the document.

        `told`: who asked for it and the number it gave, see `told`.
        What `change` raises is passed on; nothing is written then, nor where nothing has changed.
        """
        with self._alone():
            old, layout = self.experiment, self.layout
            new, placed = change(old, dict(layout))
            if new != old or placed != layout:
                self._append_edit(new, words, "", placed, told)
            return new

    def told(self, who: str) -> int:
        """Returns the highest number under which `who` has had an edit, undo or redo written; 0 for none."""
        return self._refresh().told.get(who, 0)

    def undo(self, told: tuple[str, int] | None = None) -> None:
        """Takes the last edit back; does nothing at the first version."""
        with self._alone():
            if self._refresh().cursor > 0:
                self._append({"op": "undo", "at": time.time()}, told)

    def redo(self, told: tuple[str, int] | None = None) -> None:
        """Brings back what the last undo took; does nothing when nothing was undone."""
        with self._alone():
            fold = self._refresh()
            if fold.cursor + 1 < len(fold.versions):
                self._append({"op": "redo", "at": time.time()}, told)

    def delete(self) -> None:
        """Removes the draft from the disk."""
        with _folds_lock:
            _folds.pop(self._file, None)
        self._file.unlink(missing_ok=True)

    def _append_edit(
        self,
        experiment: Experiment,
        words: str,
        path: str,
        layout: dict[str, Any] | None = None,
        told: tuple[str, int] | None = None,
    ) -> None:
        entry = {"op": "edit", "at": time.time(), "words": words, "path": path}
        entry["experiment"] = experiment.model_dump(mode="json")
        if layout is not None:
            entry["layout"] = layout
        self._append(entry, told)

    def _append(self, entry: dict[str, Any], told: tuple[str, int] | None = None) -> None:
        if told is not None:
            entry["told"] = list(told)
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        with self._file.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    line = b"\n" + line  # ends a line that a crash tore, so that only that one is lost
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._refresh()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other tab, thread or process writes this draft meanwhile."""
        try:
            lock = os.open(self._file, os.O_RDWR)
        except FileNotFoundError:
            raise DraftMissing(_GONE) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def recent(limit: int = 8, *, at_home: Path | None = None) -> list[Summary]:
    """Returns the drafts on disk, at most `limit` of them, last changed first; unreadable ones are left out, not
    deleted."""
    folder = (at_home or home()) / "drafts"
    found: list[Summary] = []
    for file in sorted(folder.glob("*.jsonl"), key=lambda f: f.stat().st_mtime, reverse=True):
        if len(found) == limit:
            break
        try:
            draft = Draft.open(file.stem, at_home=at_home)
            now = draft.experiment
        except (DraftMissing, ValueError, OSError):
            continue
        found.append(Summary(draft.id, draft.name, now.task, file.stat().st_mtime, len(draft._fold.versions)))
    return found


# -- the open draft of a browser tab ---------------------------------------------------------------------------------


def spared(act: Callable[_P, object]) -> Callable[_P, None]:
    """Makes of a widget's callback one that says it in words where its draft, or the layer it was about, was deleted in
    another tab: what a browser shows may be older than the document."""

    @wraps(act)
    def spared_act(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            act(*args, **kwargs)
        except (DraftMissing, SpecError) as error:
            st.toast(plain(str(error)), icon=":material/error:")

    return spared_act


def choose(draft: Draft | None) -> None:
    """Makes `draft` the open one of this tab: in the URL, and remembered for page switches (which empty the URL)."""
    if draft is None:
        st.session_state.pop(PARAM, None)
        address.drop(PARAM)
        return
    st.session_state[PARAM] = draft.id
    address.put(PARAM, draft.id)


def keep_in_url() -> None:
    """Puts the open draft back into the URL after a page switch. The shell calls it before each page."""
    id = address.get(PARAM) or st.session_state.get(PARAM)
    if id:
        st.session_state[PARAM] = id
        if address.get(PARAM) != id:
            address.put(PARAM, id)


def current() -> Draft | None:
    """Returns the open draft of this tab: the URL's, else the one last changed on this machine, else None."""
    id = address.get(PARAM) or st.session_state.get(PARAM)
    if id:
        try:
            return Draft.open(id)
        except DraftMissing as error:
            choose(None)
            unread = isinstance(error, DraftUnread)
            why = "was made by a newer ScanLoom" if unread else "is not there any more"
            instead = " The one last changed is shown." if recent(1) else ""
            st.toast(
                f"That experiment {why}.{instead}",  # what a toast shows without "view more"
                icon=":material/search_off:",
                duration="infinite",  # what is shown is something else than was asked for: it waits to be read
            )
    newest = recent(1)
    if not newest:
        return None
    draft = Draft.open(newest[0].id)
    choose(draft)
    return draft
