"""The lock beside a choice: open, a search may try several values there; closed, the value is the one that stands.

What is unlocked, and the range to try, is part of the document (`search.dimensions`), so an undo takes it back and
every other tab sees it. Whether a choice can be unlocked at all, and the range to begin with, come from its domain in
the catalog (`builder.search.space`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import streamlit as st

from builder.catalog import Domain, Float, Part
from builder.parts.images import AUGMENTATIONS
from builder.parts.layers import LAYERS
from builder.search import space
from builder.spec import CATALOGS, Dimension, Experiment, Search, SpecError
from pages.kit.draft import Draft, spared
from pages.kit.words import amount, path_words, plain, value_words

__all__ = [
    "beside",
    "dimension_of",
    "dress",
    "lockable",
    "option_words",
    "presence",
    "present_words",
    "ranges",
    "title",
    "toggle",
    "words_of",
]

_CSS = """<style>
[class*="st-key-lockable-"]{position:relative}
[class*="st-key-lock-"]{position:absolute!important;top:-.1rem;right:1.45rem;width:auto!important;z-index:2}
[class*="st-key-lock-end-"]{right:0}
[class*="st-key-lockable-"]>[class*="st-key-switch-"]{max-width:calc(100% - 1.6rem)}
[class*="st-key-lock-"] button{min-height:0;padding:.1rem .2rem;opacity:.5}
[class*="st-key-lock-"] button:hover,[class*="st-key-lock-"] button:focus-visible{opacity:1}
[class*="st-key-lock-open-"] button,[class*="st-key-lock-end-open-"] button{opacity:1;color:#4a78ef}
[class*="st-key-lock-"] button [data-testid=stMarkdownContainer]{position:absolute;right:1.6rem;top:0;opacity:0;
 pointer-events:none;background:#ffffff;border:1px solid #dfe4ec;border-radius:.4rem;padding:.1rem .45rem;
 white-space:nowrap;color:#16202e}
[class*="st-key-lock-"] button [data-testid=stMarkdownContainer] p{font-size:.8rem}
[class*="st-key-lock-"] button:hover [data-testid=stMarkdownContainer],
[class*="st-key-lock-"] button:focus-visible [data-testid=stMarkdownContainer]{opacity:1}
[class*="st-key-tries-"]{margin-top:-.5rem;align-items:flex-start}
[class*="st-key-tries-"] button{min-height:0;padding:.1rem .2rem;color:#4a78ef}
[class*="st-key-tries-"] button p{font-size:.85rem;white-space:nowrap}
</style>"""
_DARK = """<style>
[class*="st-key-lock-"] button [data-testid=stMarkdownContainer]{background:#1a212c;border-color:#2c3644;color:#e7ecf3}
</style>"""
_AUGMENT = "training.augment."
_MANY = 4  # more options than this are counted, not listed
_known: list[tuple[Experiment, Mapping[str, Domain]]] = []
_lock = threading.Lock()


def dress() -> None:
    """The style sheet of the locks, once a page."""
    st.html(_CSS)
    if st.context.theme.type == "dark":
        st.html(_DARK)


def lockable(experiment: Experiment) -> Mapping[str, Domain]:
    """Returns every choice of the document that can be unlocked, with its domain; worked out once a document."""
    with _lock:
        for kept, found in _known:
            if kept is experiment:
                return found
    found = space.unlockable(experiment)
    with _lock:
        _known[:] = [(experiment, found), *_known[:7]]
    return found


def dimension_of(experiment: Experiment, path: str) -> Dimension | None:
    """Returns what the search tries at `path`; None while it is locked."""
    unlocked = experiment.search.dimensions if experiment.search else ()
    return next((d for d in unlocked if d.path == path), None)


def title(path: str, domain: Domain | None) -> str:
    """Returns what a choice is called away from its own page: "Learning rate", "conv1: kernel size"."""
    label = domain.label if domain is not None else path_words(path)
    head, _, rest = path.partition(".")
    if head == "network" and "." in rest:
        return f"{rest.partition('.')[0]}: {label.lower()}"
    if path.startswith(_AUGMENT):
        name, _, setting = path.removeprefix(_AUGMENT).partition(".params.")
        part = AUGMENTATIONS[name].title if name in AUGMENTATIONS else name
        return f"{part}: {label.lower()}" if setting else part
    return label


def present_words(experiment: Experiment, path: str, domain: Domain | None) -> str:
    """Returns where a choice stands without a search: "now 0.001"."""
    value = space.value_at(experiment, path, domain)
    return f"now {option_words(path, value)}"


def option_words(path: str, value: Any) -> str:
    """Returns a value at `path` in words: parts by their title, a layer that is there or left out."""
    if _of_presence(path):
        return {space.PRESENT: "there", space.ABSENT: "left out"}.get(value, str(value))
    if isinstance(value, float):
        return _digits(value)
    catalog: Mapping[str, Part] = CATALOGS.get(path) or (LAYERS if path.endswith(".name") else {})
    return catalog[value].title if value in catalog else value_words(value)


def _of_presence(path: str) -> bool:
    """Whether a path says if something is there, rather than what it is set to."""
    return ".params." not in path and (
        (path.startswith("network.") and path.count(".") == 1) or path.startswith(_AUGMENT)
    )


@contextmanager
def beside(draft: Draft, path: str, *, disabled: bool = False, at_end: bool = False) -> Iterator[None]:
    """Draws the widget of the choice at `path` (what stands in the `with`) with its lock, and once it is unlocked what
    the search tries, to be changed in place. `at_end`: no help stands at the right end of its first line (a switch)."""
    experiment = draft.experiment
    domain = space.reachable(experiment, path)
    dimension = dimension_of(experiment, path)
    if domain is None and dimension is None:
        yield
        return
    with st.container(key=f"lockable-{_plainly(path)}", gap="xsmall"):
        yield
        if not disabled:
            _button(draft, path, domain, dimension, "lock-end" if at_end else "lock")
        if dimension is not None:
            _tried(draft, dimension, domain)


def presence(draft: Draft, path: str, what: str) -> None:
    """Draws the lock on whether something is there at all: a layer, an augmentation."""
    experiment = draft.experiment
    if space.reachable(experiment, path) is None and dimension_of(experiment, path) is None:
        return
    open_ = dimension_of(experiment, path) is not None
    st.button(
        f"Tried with and without {plain(what)}" if open_ else f"Let a search try it without {plain(what)}",
        key=f"presence-{path}",
        type="tertiary",
        icon=":material/lock_open:" if open_ else ":material/lock:",
        on_click=toggle,
        args=(draft, path),
    )


def _button(draft: Draft, path: str, domain: Domain | None, dimension: Dimension | None, place: str) -> None:
    name = plain((domain.label if domain else path_words(path)).lower())
    open_ = dimension is not None
    with st.container(key=f"{place}-{'open' if open_ else 'shut'}-{_plainly(path)}"):
        st.button(
            f"Lock {name} again" if open_ else f"Let a search choose {name}",
            key=f"unlock:{path}",
            type="tertiary",
            icon=":material/lock_open:" if open_ else ":material/lock:",
            on_click=toggle,
            args=(draft, path),
        )


def _tried(draft: Draft, dimension: Dimension, domain: Domain | None) -> None:
    with (
        st.container(key=f"tries-{_plainly(dimension.path)}"),
        st.popover(
            f"tries {plain(words_of(dimension))}",
            key=f"tried:{dimension.path}",
            type="tertiary",
            icon=":material/tune:",
        ),
    ):
        ranges(draft, dimension, domain, "here")


@spared
def toggle(draft: Draft, path: str) -> None:
    """Unlocks the choice at `path` with the range that its domain proposes, or locks it again."""
    words = path_words(path)
    if dimension_of(draft.experiment, path) is not None:

        def shut(now: Experiment) -> Experiment:
            if now.search is None:
                return now
            rest = tuple(d for d in now.search.dimensions if d.path != path)
            search = now.search.model_copy(update={"dimensions": rest})
            return now.replace("search", None if search == Search() else search)

        draft.apply(shut, f"{words} locked")
        return

    def unlock(now: Experiment) -> Experiment:
        if dimension_of(now, path) is not None:
            return now
        search = now.search or Search()
        return now.replace(
            "search", search.model_copy(update={"dimensions": (*search.dimensions, space.proposed(now, path))})
        )

    draft.apply(unlock, f"{words} unlocked for the search")


# -- the range to try -------------------------------------------------------------------------------------------------


def words_of(dimension: Dimension) -> str:
    """Returns what a search tries in words: "0.0001 to 0.1", "adam, adamw or sgd", "with and without"."""
    if _of_presence(dimension.path):
        return "with and without"
    if dimension.choices:
        options = [option_words(dimension.path, option) for option in dimension.choices]
        if len(options) > _MANY:
            return amount(len(options), "option")
        return " or ".join(filter(None, [", ".join(options[:-1]), options[-1]]))
    step = f" in steps of {_digits(dimension.step)}" if dimension.step not in (0, 1) else ""
    return f"{_digits(dimension.low, 3)} to {_digits(dimension.high, 3)}{step}"


def _digits(number: float | None, num: int = 4) -> str:
    """A number of `num` digits without an exponent, as far as one can read it: 0.00008."""
    if number is None:
        return "?"
    if isinstance(number, float):
        number = float(f"{number:.{num}g}")
    return f"{number:.7f}".rstrip("0") if 1e-6 <= abs(number) < 1e-3 else f"{number:g}"


def ranges(draft: Draft, dimension: Dimension, domain: Domain | None, place: str) -> None:
    """Draws the fields of one range; `place` keeps the keys of two of them on one page apart."""
    path = dimension.path
    refused = st.session_state.get(f"range-refused:{path}")
    if _of_presence(path) and len(dimension.choices) == 2:
        st.markdown("Tried with it and without it.")
    elif dimension.choices or dimension.low is None:
        known = [*getattr(domain, "options", ()), *dimension.choices]
        options = list(dict.fromkeys(known))
        key = f"range-choices-{place}:{path}"
        if st.session_state.get(key) != list(dimension.choices):
            st.session_state[key] = list(dimension.choices)
        st.multiselect(
            "Options to try",
            options,
            key=key,
            format_func=lambda option: option_words(path, option),
            on_change=_write_choices,
            args=(draft, path, key),
        )
    else:
        with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
            for name, words in (("low", "From"), ("high", "To")):
                key = f"range-{name}-{place}:{path}"
                value = getattr(dimension, name)
                if isinstance(domain, Float) and value is not None:  # 0 in a file is no wish for whole numbers
                    value = float(value)
                if (now := st.session_state.get(key)) != value or type(now) is not type(value):
                    st.session_state[key] = value
                whole = isinstance(value, int)
                st.number_input(
                    words,
                    value=value,
                    step=1 if whole else _step_of(value or 0.0),
                    format=None if whole else "%g",
                    key=key,
                    width=135,
                    on_change=_write_end,
                    args=(draft, path, name, key),
                )
            key = f"range-log-{place}:{path}"
            if st.session_state.get(key) != dimension.log:
                st.session_state[key] = dimension.log
            with st.container(width="content", height=42, border=False, vertical_alignment="center"):
                st.toggle(
                    "By magnitude",
                    key=key,
                    help="As often between 0.001 and 0.01 as between 0.01 and 0.1: right for rates and penalties.",
                    on_change=_write_log,
                    args=(draft, path, key),
                )
    if refused:
        st.caption(f":red[{plain(refused)}]")


def _step_of(value: float) -> float:
    """What the + and - buttons add to a number: a tenth of its power of ten."""
    digits = re.fullmatch(r"\d\.?\d*e([+-]\d+)", f"{abs(value) or 1.0:e}")
    return float(10.0 ** (int(digits.group(1)) - 1)) if digits else 0.1


def _changed(draft: Draft, path: str, words: str, **update: Any) -> None:
    def change(now: Experiment) -> Experiment:
        if now.search is None:
            return now
        new = [d.model_copy(update=update) if d.path == path else d for d in now.search.dimensions]
        return now.replace("search", now.search.model_copy(update={"dimensions": tuple(new)}))

    st.session_state.pop(f"range-refused:{path}", None)
    try:
        draft.apply(change, f"{path_words(path)}: {words}")
    except SpecError as error:
        st.session_state[f"range-refused:{path}"] = str(error)


@spared
def _write_choices(draft: Draft, path: str, key: str) -> None:
    _changed(draft, path, "options to try", choices=tuple(st.session_state[key]))


@spared
def _write_end(draft: Draft, path: str, name: str, key: str) -> None:
    if st.session_state[key] is not None:
        _changed(draft, path, "range to try", **{name: st.session_state[key]})


@spared
def _write_log(draft: Draft, path: str, key: str) -> None:
    _changed(draft, path, "scale", log=bool(st.session_state[key]))


def _plainly(path: str) -> str:
    return path.replace(".", "-")
