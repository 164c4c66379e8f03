"""What is told of people, machines and sites after their scans came: by a table that names patients.

Files that are given again tell it, too (see `intake`). Either way it is an edit of the case (see `labels`), so what the
import kept stays as it was. A patient is found by the pseudonym; the name in the table is not kept.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from builder import attributes
from builder.data import Dataset, Pseudonyms
from builder.labels import record
from builder.tables import read_people
from builder.writing import writing

__all__ = ["tell"]


def tell(home: Path, dataset: Dataset, table: Path) -> dict[str, Any]:
    """Gives the scans of a data set the attributes that a table tells of their patients.

    Returns: {dataset, rows (of the table), found (rows whose patient is there), scans (that got something new), told
        {attribute: scans}, notes [sentences]}.

    Raises:
        TableRefused: a table that tells nothing of patients. UnusableScan: an import into the data set is running.
    """
    rows, notes = read_people(table)
    pseudonyms, news = Pseudonyms(home), dict[int, dict[str, str]]()
    of_patient: dict[str, list[int]] = {}
    for index, case in enumerate(dataset.cases):
        of_patient.setdefault(case.patient, []).append(index)
    known = [(of_patient[key], cells) for name, cells in rows if (key := pseudonyms("patient", name)) in of_patient]
    with writing(home, dataset.name, dataset.task, dataset.id) as draft:
        assert draft.base is not None
        numbers = attributes.Numbers(pseudonyms, draft.base.numbered)
        for there, cells in known:
            kept, named, _ = attributes.from_cells(cells)
            said = {**kept, **{name: numbers(name, text) for name, text in named.items()}}
            for index in there:
                now = {**dataset.cases[index].attributes, **news.get(index, {})}
                if new := {name: value for name, value in said.items() if now.get(name) != value}:
                    news[index] = {**news.get(index, {}), **new}
        draft.renumber(numbers.to_json())  # first: a number that stands with a scan must mean the same for ever
        for index, new in news.items():
            record(dataset, index, attributes=new, origin="imported")
    told = Counter(name for new in news.values() for name in new)
    return {
        "dataset": dataset.id,
        "rows": len(rows),
        "found": len(known),
        "scans": len(news),
        "told": {name: told[name] for name in sorted(told, key=attributes.place)},
        "notes": notes,
    }
