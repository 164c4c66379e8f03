"""What was asked of a run besides its figures: the audit of its data, its confidence, terms and gate, its heat maps,
what it makes up, who read beside it. Gathered for a pack as it was found, and asked again when it is verified.

Readers are numbered in a pack: initials say who somebody is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder import audit, calibrate, error_groups, gate, hallucination, reader, sanity
from builder.data import Dataset
from builder.parting import dataset_of
from builder.reading_report import report
from builder.runs import Run, append_whole

__all__ = ["KINDS", "READINGS", "again", "gathered", "put_readings", "readings_text", "unasked"]

READINGS = "readings.json"
"""The file of a pack with what readers answered; there is none where nobody read."""
_PASSING = ("at", "seconds", "key", "began")
Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Kind:
    """Something that can be asked of a run.

    Attributes:
        title: for people. where: how to ask, where nobody did. found: what was found last, {} where nobody asked.
        again: asks anew, of the run in a data folder of its own; None: it cannot be asked again. why: what is not
            asked again, in words.
    """

    title: str
    where: str
    found: Callable[[Run, Dataset], dict[str, Any]]
    again: Callable[[Run, Mapping[str, Any], Told | None], dict[str, Any]] | None = None
    why: str = ""


def gathered(run: Run, dataset: Dataset) -> dict[str, Any]:
    """{name of `KINDS`: what was found of the present weights and scans, {} where nobody asked}, as JSON data."""
    return {name: _lasting(kind.found(run, dataset)) for name, kind in KINDS.items()}


def again(twin: Run, said: Mapping[str, Any], told: Told | None = None) -> Iterator[tuple[str, Any, Any]]:
    """(name, what was said, what comes out now) of each that can be asked again, in `KINDS`' order.

    Args:
        twin: the run of a pack in a data folder of its own, measured on its test side already. said: `gathered`.
    """
    for name, kind in KINDS.items():
        if kind.again is None or not (before := said.get(name)) or before.get("relabelled"):
            continue
        now = _lasting(kind.again(twin, before, told))
        yield name, _comparable(name, before), _comparable(name, json.loads(json.dumps(now)))


def unasked(said: Mapping[str, Any]) -> list[str]:
    """What a pack tells that verifying does not ask again, in sentences."""
    rows = [f"{kind.title}: {kind.why}" for name, kind in KINDS.items() if kind.why and said.get(name)]
    if (said.get("audit") or {}).get("relabelled"):
        rows.append("The audit was made before labels were corrected, so it was not made again: audit the data anew.")
    if (said.get("gate") or {}).get("foreign"):
        rows.append("The gate was not asked about other data sets again: their scans are not part of the pack.")
    return rows


def _comparable(name: str, found: Any) -> Any:
    """Without what rests on scans that a pack has not, or on when it was asked."""
    out = {("gate", "foreign"), ("audit", "relabelled")}
    return {part: value for part, value in found.items() if (name, part) not in out}


def _lasting(found: Any) -> Any:
    """Without moments and durations."""
    if isinstance(found, Mapping):
        return {name: _lasting(value) for name, value in found.items() if name not in _PASSING}
    return [_lasting(value) for value in found] if isinstance(found, list | tuple) else found


# -- readings ---------------------------------------------------------------------------------------------------------


def _nameless(run: Run) -> list[dict[str, Any]]:
    """[{reading (reading.json), answers [lines]}] of a run's readings, readers as "Reader 1", "Reader 2" throughout."""
    found: list[dict[str, Any]] = []
    numbers: dict[str, str] = {}
    for one in reader.readings(run):
        rows = []
        for line in one.lines():
            name = numbers.setdefault(str(line["reader"]), f"Reader {len(numbers) + 1}")
            rows.append({**{key: value for key, value in line.items() if key != "at"}, "reader": name})
        if any("case" in row for row in rows):
            told = json.loads((one.folder / "reading.json").read_text())
            found.append({"reading": {**told, "at": 0.0}, "answers": rows})
    return found


def readings_text(run: Run) -> str:
    """The text of `READINGS`; "" where nobody has answered."""
    found = _nameless(run)
    return json.dumps(found, ensure_ascii=False) + "\n" if found else ""


def put_readings(pack: Path, twin: Run) -> None:
    """Lays the readings of a pack beside its run, as they lie beside a run of this data folder."""
    shutil.rmtree(twin.folder / reader.FOLDER, ignore_errors=True)
    if (pack / READINGS).is_file():
        _lay(json.loads((pack / READINGS).read_text(encoding="utf-8")), twin.folder / reader.FOLDER)


def _lay(found: list[dict[str, Any]], place: Path) -> None:
    for number, one in enumerate(found, 1):
        folder = place / str(number)
        folder.mkdir(parents=True)
        (folder / "reading.json").write_text(json.dumps(one["reading"]))
        with open(folder / "answers.jsonl", "ab") as file:
            for row in one["answers"]:
                append_whole(file.fileno(), (json.dumps({"at": 0.0, **row}, ensure_ascii=False) + "\n").encode())


def _read(run: Run, dataset: Dataset) -> dict[str, Any]:
    """{reports [`reading_report.report` of each reading that somebody has read in]}, readers without names."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix=".readings-", dir=run.folder) as passing:
        _lay(_nameless(run), Path(passing))
        folders = sorted(Path(passing).iterdir(), key=lambda folder: int(folder.name))
        found = [report(reader.Reading(folder)) for folder in folders]
    reports = [one for one in found if one["readers"]]
    return {"reports": reports} if reports else {}


# -- the rest ---------------------------------------------------------------------------------------------------------


def _terms(run: Run, dataset: Dataset) -> dict[str, Any]:
    """{terms that were chosen, on_test (`terms.measured` or None)}; {} where nobody chose any."""
    chosen = calibrate.chosen(run)
    if not chosen.at:
        return {}
    measured = calibrate.on_test(run) if chosen.temperature is not None or chosen.limit is not None else None
    return {**chosen.plain(), "note": chosen.note, "on_test": measured}


def _gate(run: Run) -> dict[str, Any]:
    """What `gate.measure` found; other data sets by number, as people may have named them after a person."""
    found = gate.kept(run) or {}
    rows = [{**row, "name": f"Another data set ({k})"} for k, row in enumerate(found.get("foreign") or (), 1)]
    return {**found, "foreign": rows} if found else {}


def _common_errors(run: Run, dataset: Dataset) -> dict[str, Any]:
    """What `error_groups.ask` found; {} where nobody asked, or labels were corrected since."""
    found = error_groups.kept_of(run) or {}
    return found if found.get("edited") == dataset.edited and "looked" in found else {}


def _audited_again(twin: Run, said: Mapping[str, Any], told: Told | None) -> dict[str, Any]:
    dataset = Dataset.open(twin.home, twin.experiment.data.dataset)  # on its own sides, whatever those of the run are
    # An audit of an earlier version does not say it, and its reason only where nothing else stood in the way.
    look = bool(said.get("looked", (said.get("naive") or {}).get("why") != audit.NOT_LOOKED))
    return audit.audit(dataset, look=look, told=told or (lambda done, total: None))


KINDS: dict[str, Kind] = {
    "audit": Kind(
        "The audit of the data",
        "The audit of the data for leaks and shortcuts (Data page, or the command audit)",
        lambda run, dataset: audit.kept(dataset) or {},
        _audited_again,
    ),
    "confidence": Kind(
        "Its confidence",
        "Whether its confidence is right, and when it may keep silent (Results page, or the command terms)",
        lambda run, dataset: calibrate.kept(run) or {},
        lambda twin, said, told: calibrate.judge(twin, twin.home, told),
    ),
    "terms": Kind(
        "The terms on which it answers",
        "Terms on which it answers: temperature, silence, gate (Results page, or the command terms)",
        _terms,
        lambda twin, said, told: _terms(twin, dataset_of(twin.folder, twin.home, twin.experiment.data.dataset)),
    ),
    "gate": Kind(
        "Its gate",
        "How often its gate stops its own scans, and others (Results page, or the command terms --measure)",
        lambda run, dataset: _gate(run),
        lambda twin, said, told: gate.measure(twin, twin.home, progress=told),
    ),
    "common_errors": Kind(
        "What its errors have in common",
        "Whether its errors have something in common (Results page, or the command errors)",
        _common_errors,
        lambda twin, said, told: error_groups.ask(twin, twin.home, told, sides=said["sides"]),
    ),
    "explained": Kind(
        "The tests of its heat maps",
        "Tests of its heat maps (Results page, or the command explain)",
        lambda run, dataset: sanity.kept(run, calibrate.weights_of(run)) or {},
        lambda twin, said, told: sanity.examine(twin, twin.home, told),
    ),
    "structures": Kind(
        "What it makes up or hides",
        "What it makes up or hides on restored scans (Results page, or the command hallucinations)",
        lambda run, dataset: hallucination.kept(run) or {},
        lambda twin, said, told: hallucination.audit(twin, twin.home, told),
    ),
    "diagnosis": Kind(
        "A diagnosis on restored scans",
        "Whether a diagnosis is more often right on restored scans (Results page, or hallucinations --judge)",
        lambda run, dataset: hallucination.diagnosed(run) or {},
        why="it was not asked again, because the network that gave it is not part of the pack.",
    ),
    "readings": Kind(
        "The blind reading",
        "A blind reading: readers first, the network second (page “Reader and network”)",
        _read,
        lambda twin, said, told: _read(twin, dataset_of(twin.folder, twin.home, twin.experiment.data.dataset)),
        why="its figures were computed again from what people answered, but nobody was asked again.",
    ),
}
"""{entry of a pack: what can be asked}, in the order of the report."""
