"""Form widgets out of catalog domains. The widget's key is the path of its choice; what it shows is the draft's value.

A widget never owns a value: before it is drawn it is set to what the draft says (so undo, a repair and another tab's
edit appear in it), and its callback compares with the draft before it writes (so a rerun that changes nothing adds no
step). It is also drawn with that value as its default: a browser that has just mounted a widget tells the default until
it has taken in what it was set to, and what is typed in that moment would carry zeros of all the others along.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import floor, log10
from typing import Any

import streamlit as st

from builder.catalog import Catalog, Domain, Flag, Float, Int, OneOf, Part, Text
from builder.spec import Choice, Experiment, Problem, SpecError
from builder.task import offered
from pages.kit import findings, locks
from pages.kit.draft import Draft, spared
from pages.kit.words import plain

__all__ = [
    "choice",
    "field",
    "fresh_key",
    "marks",
    "note",
    "problems_at",
    "section",
    "tells_anew",
    "value_of",
    "wrote",
]

_KNOWN = "known-values"
_HELD = "held-values"
_EXACT = 2**53 - 1  # larger whole numbers a browser cannot tell apart
_SLIDER_STEPS = 100  # a slider with more stops than this cannot be set exactly by hand
_SEGMENTS = 4  # up to this many short options stand side by side


def value_of(experiment: Experiment, path: str, domain: Domain) -> Any:
    """Returns the document's value at `path`; the domain's default where the document leaves it to the default."""
    try:
        return experiment.at(path)
    except SpecError:
        return domain.default


def problems_at(problems: Iterable[Problem], path: str, *, inside: bool = False) -> list[Problem]:
    """Returns the problems of exactly this path; with `inside` those of everything below it, too."""
    return [p for p in problems if p.path == path or (inside and p.path.startswith(f"{path}."))]


def field(
    draft: Draft,
    path: str,
    domain: Domain,
    problems: Iterable[Problem] = (),
    *,
    label: str = "",
    disabled: bool = False,
) -> Any:
    """Draws the widget of one choice and its problems right below it; returns the draft's value.

    Args:
        path: where the value lies, such as "training.optimizer.params.lr"; also the widget's key.
        domain: the catalog's declaration: what may be chosen, and the help in plain words.
        problems: all problems of the document; those of `path` are shown here.
    """
    experiment = draft.experiment
    domain = offered(experiment.task, path, domain)
    value = value_of(experiment, path, domain)
    if isinstance(domain, Int) and isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        value = int(value)  # 3.0 in a file is a 3
    refused = st.session_state.get(_refusal(path))
    key = fresh_key(path, value) if path.startswith("network.") else path
    _held()[key] = value if refused is None else st.session_state.get(key)
    if refused is None and st.session_state.get(key) != value and _holds(domain, value):
        st.session_state[key] = value
    name = label or domain.label
    common: dict[str, Any] = {
        "key": key,
        "help": domain.help,
        "disabled": disabled,
        "on_change": _write,
        "args": (draft, path, domain, key),
    }
    unit = getattr(domain, "unit", "")
    if unit and unit not in name.lower().split():
        name = f"{name} ({unit})"
    with locks.beside(draft, path, disabled=disabled, at_end=isinstance(domain, Flag)):
        if not _holds(domain, value):  # the problem below says what is wrong with it, and mends it
            st.text_input(name, value=str(value), key=f"unfit:{key}", help=domain.help, disabled=True)
        elif isinstance(domain, Flag):
            st.toggle(name, value=value is True, **common)
        elif isinstance(domain, OneOf):
            _one_of(name, domain, value, common)
        elif isinstance(domain, Int):
            _int(name, domain, value, common)
        elif isinstance(domain, Float):
            _float(name, domain, value, common)
        else:
            st.text_input(name, value=str(value), **common)
    if refused is not None:
        st.caption(f":red[{plain(refused)}]")
    marks(draft, problems_at(problems, path))
    return value


def _holds(domain: Domain, value: Any) -> bool:
    """Whether the widget of `domain` can show a value at all: a loaded document may hold any kind of value."""
    if isinstance(domain, Flag):
        return isinstance(value, bool)
    if isinstance(domain, OneOf):
        return isinstance(value, str)
    if isinstance(domain, Int | Float):
        number = isinstance(value, int if isinstance(domain, Int) else int | float) and not isinstance(value, bool)
        return number and abs(value) <= _EXACT
    return True


def _one_of(name: str, domain: OneOf, value: Any, common: dict[str, Any]) -> None:
    options = list(domain.options) if value in domain.options else [*domain.options, value]
    if len(options) <= _SEGMENTS and sum(len(o) for o in options) <= (34 if len(options) < _SEGMENTS else 20):
        st.segmented_control(name, options, default=value, required=True, **common)
    else:
        st.selectbox(name, options, index=options.index(value), **common)


def _int(name: str, domain: Int, value: int, common: dict[str, Any]) -> None:
    low, high = (
        min(domain.low, value),
        max(domain.high, value),
    )  # a loaded document may lie outside; its problem says so
    if not domain.log and (high - low) / domain.step <= _SLIDER_STEPS // 2:
        st.slider(name, low, high, value, step=domain.step, **common)
    else:
        # No bounds: the browser would keep a value outside of them to itself, shown but never told to anyone.
        st.number_input(name, value=value, step=domain.step, **common)


def _float(name: str, domain: Float, value: float, common: dict[str, Any]) -> None:
    low, high = float(min(domain.low, value)), float(max(domain.high, value))
    if not domain.log and domain.step and (high - low) / domain.step <= _SLIDER_STEPS:
        st.slider(name, low, high, float(value), step=float(domain.step), format="%g", **common)
    else:
        st.number_input(name, value=float(value), step=_step_of(domain), format="%g", **common)


def _step_of(domain: Float) -> float:
    """What the + and - buttons add: the declared step, else a tenth of the default's power of ten."""
    if domain.step:
        return float(domain.step)
    return float(10.0 ** (floor(log10(abs(domain.default) or 1.0)) - 1))


def _refusal(path: str) -> str:
    return f"refused:{path}"


def fresh_key(place: str, value: Any) -> str:
    """Returns the key of a widget in a layer's form: `place`, and a number that rises whenever something else than the
    widget has changed its value (an undo, a repair, another tab).

    A browser goes on telling what a widget held until it has taken in what it was set to. On the canvas the next
    gesture is quicker than that, and would carry the old value along as if it had been typed; under a new key it is
    nobody's.
    """
    known: dict[str, tuple[Any, int]] = st.session_state.setdefault(_KNOWN, {})
    last, number = known.get(place, (value, 0))
    number += last != value
    known[place] = (value, number)
    key = f"{place}#{number}" if number else place
    _held()[key] = value
    return key


def wrote(place: str, value: Any) -> None:
    """Remembers that the widget of `place` itself has made its value `value`: its key stays."""
    known = st.session_state.get(_KNOWN, {})
    if place in known:
        known[place] = (value, known[place][1])


def _held() -> dict[str, Any]:
    """What each widget was last known to hold, by key: what it was drawn with, or what it told after that."""
    return st.session_state.setdefault(_HELD, {})


def tells_anew(key: str) -> bool:
    """Says whether the widget of `key` tells what a hand has done, and not only once more what it held.

    A browser goes on telling what the fields of a layer held whose form is gone from the page; by now another tab, an
    undo or a repair may have changed it. But it also shows that form a moment longer than we do, and a quick hand types
    into it: that is meant, and must not be lost.
    """
    told, held = st.session_state[key], _held()
    if key in held and held[key] == told:
        return False
    held[key] = told
    return True


@spared
def _write(draft: Draft, path: str, domain: Domain, key: str) -> None:
    layer = path.split(".")[1] if path.startswith("network.") else ""
    if not tells_anew(key) or (layer and all(n.id != layer for n in draft.experiment.network)):
        return
    new = st.session_state[key]
    st.session_state.pop(_refusal(path), None)
    if isinstance(domain, Text) and isinstance(new, str):
        new = new.strip()
    if new == value_of(draft.experiment, path, domain):
        return
    try:
        draft.replace(path, new)
        wrote(path, new)
    except SpecError as error:
        st.session_state[_refusal(path)] = str(error)


def section(
    draft: Draft,
    prefix: str,
    domains: Sequence[Domain],
    problems: Iterable[Problem] = (),
    *,
    num_columns: int = 2,
    disabled: bool = False,
) -> None:
    """Draws a widget per domain at `prefix.<name>`, in `num_columns` columns, row by row (tabbing reads like text)."""
    problems = list(problems)
    for start in range(0, len(domains), num_columns):
        for place, domain in zip(st.columns(num_columns), domains[start : start + num_columns], strict=False):
            with place:
                field(draft, f"{prefix}.{domain.name}", domain, problems, disabled=disabled)


def choice(
    draft: Draft,
    path: str,
    catalog: Catalog,
    problems: Iterable[Problem] = (),
    *,
    label: str = "",
    num_columns: int = 2,
) -> Part | None:
    """Draws the pick of a part (an optimizer, a schedule) at `path` and below it the part's settings.

    Changing the part keeps the settings that the new one has too (a learning rate is kept from SGD to Adam only where
    the user had set it) and leaves the rest to the new part's defaults. Returns the picked part, None for an unknown
    one.
    """
    problems = list(problems)
    now: Choice = draft.experiment.at(path)
    names = catalog.names if now.name in catalog else [*catalog.names, now.name]
    if st.session_state.get(path) != now.name:
        st.session_state[path] = now.name
    with locks.beside(draft, path):
        st.selectbox(
            label or catalog.name.capitalize(),
            names,
            index=names.index(now.name),
            key=path,
            format_func=lambda name: catalog[name].title if name in catalog else name,
            on_change=_switch,
            args=(draft, path, catalog),
        )
    marks(draft, [*problems_at(problems, path), *problems_at(problems, f"{path}.name")])
    if now.name not in catalog:
        return None
    part = catalog[now.name]
    st.caption(plain(part.help))
    section(draft, f"{path}.params", part.params, problems, num_columns=num_columns)
    return part


@spared
def _switch(draft: Draft, path: str, catalog: Catalog) -> None:
    name = st.session_state[path]
    if name not in catalog:
        return
    has = {p.name for p in catalog[name].params}

    def change(now: Experiment) -> Experiment:
        old = now.at(path)
        kept = {k: v for k, v in old.params.items() if k in has}
        return now if name == old.name else now.replace(path, Choice(name=name, params=kept))

    draft.apply(change, f"{catalog.name} to {catalog[name].title}")


def marks(draft: Draft, problems: Iterable[Problem]) -> None:
    """Draws problems, errors red and warnings orange, each with its repair button where there is one."""
    for number, problem in enumerate(problems):
        colour = "red" if problem.severity == "error" else "orange"
        icon = ":material/error:" if problem.severity == "error" else ":material/warning:"
        st.markdown(f":{colour}[{icon} {plain(problem.message)}]")
        if problem.fix is not None:
            words = problem.repair or "Repair"
            key = f"repair:{problem.path}:{number}"
            st.button(words, key=key, icon=":material/build:", on_click=_repair, args=(draft, problem))


@spared
def _repair(draft: Draft, problem: Problem) -> None:
    st.session_state.pop(_refusal(problem.path), None)
    findings.mend(draft, problem.path, problem.repair)


def note(draft: Draft, problems: Iterable[Problem], shown: Iterable[str]) -> None:
    """Draws the problems that no widget on this page shows: those outside `shown` (paths and all below)."""
    heads = tuple(shown)
    rest = [p for p in problems if not any(p.path == h or p.path.startswith(f"{h}.") for h in heads)]
    marks(draft, rest)
