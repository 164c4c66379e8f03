"""What differs between two runs, in the words of the catalogs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import streamlit as st

from builder.catalog import Part
from builder.parts.images import AUGMENTATIONS, PREPARE
from builder.parts.layers import LAYERS
from builder.parts.training import TRAINING
from builder.runs import Run
from builder.spec import CATALOGS, Choice, Experiment, Node
from pages.kit import style
from pages.kit.run_list import experiment_of, labels_of
from pages.kit.words import path_words, value_words

__all__ = ["compared", "differences"]


def compared(runs: Sequence[Run]) -> None:
    """What differs between the first two runs that are shown."""
    first, second = experiment_of(runs[0]), experiment_of(runs[1])
    if first is None or second is None:
        return
    one, two = labels_of(runs)[:2]
    with style.card("What differs", key="differs"):
        found = differences(first, second)
        if not found:
            st.caption("Nothing: the two experiments are the same.")
            return
        st.dataframe(
            [{"Choice": words, one: _short(a), f"{two} ": _short(b)} for words, (a, b) in found.items()],
            hide_index=True,
            key="differs-table",
        )


def differences(first: Experiment, second: Experiment) -> dict[str, tuple[Any, Any]]:
    """Returns what differs in the words of the catalogs; a layer or augmentation that only one has is one row."""
    found: dict[str, tuple[Any, Any]] = {}
    for path, values in first.diff(second).items():
        section, *rest = path.split(".")
        if path == "network":
            found["Order of the layers"] = values
        elif section == "network":
            _of_parts(found, LAYERS, [_named(e.network, rest[0]) for e in (first, second)], rest[1:], values, "Layer")
        elif rest and rest[0] == "augment":
            both = [_named(e.training.augment, rest[1]) for e in (first, second)]
            _of_parts(found, AUGMENTATIONS, both, rest[2:], values, "Augmentation")
        elif rest and (place := f"{section}.{rest[0]}") in CATALOGS:
            _of_parts(
                found, CATALOGS[place], [e.at(place) for e in (first, second)], rest[1:], values, path_words(place)
            )
        else:
            part = {"data": PREPARE, "training": TRAINING}.get(section)
            labels = {p.name: p.label for p in part.params} if part else {}
            found[labels.get(rest[-1], path_words(path)) if rest else path_words(path)] = values
    return found


def _named(choices: Iterable[Choice], name: str) -> Choice | None:
    return next((c for c in choices if name == (c.id if isinstance(c, Node) else c.name)), None)


def _of_parts(
    found: dict[str, tuple[Any, Any]],
    offered: Mapping[str, Part],
    both: Sequence[Choice | None],
    rest: Sequence[str],
    values: tuple[Any, Any],
    kind: str,
) -> None:
    """Adds the row about a part or one of its settings; a setting that is not written down has its default."""
    titles = [c and (offered[c.name].title if c.name in offered else c.name) for c in both]
    one = next(c for c in both if c is not None)
    several = kind in ("Layer", "Augmentation")  # of these a document has some, of others one
    called = one.id if isinstance(one, Node) else titles[both.index(one)] if several else kind
    if None in both or rest == ["name"]:
        what = kind if not several else f"{kind} {called}" if isinstance(one, Node) else f"{kind}: {called}"
        found[what] = (titles[0], titles[1])
        return
    setting = rest[-1]
    told, label = list(values), "fed by" if setting == "inputs" else setting.replace("_", " ")
    for place, choice in enumerate(both):
        for domain in offered[choice.name].params if choice and choice.name in offered else ():
            if domain.name == setting:
                label = domain.label.lower()
                told[place] = domain.default if told[place] is None else told[place]
    found[f"{called}: {label}"] = (told[0], told[1])


def _short(value: Any) -> str:
    return "–" if value is None else value_words(value)
