"""Does an evidence pack still hold? Its files, the data it rests on, and every figure asked for again.

The figures are computed anew from the document and the weights in the pack and from the scans of this data folder, as
many of them as there were when the pack was made; pictures are prepared anew, no cache is believed. That is no further
look at the test side: the same weights are asked about the same scans, and nothing new comes out unless something was
changed. So it is not counted as an opening.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder import blanking
from builder.data import Dataset, UnknownDataset
from builder.evaluate import evaluate
from builder.evidence import asked, environment, facts, hashes
from builder.evidence.opened import NoPack, opened
from builder.evidence.pack import ASIS, DATA, MANIFEST, Told, digests
from builder.runs import Run, read_json

TOLERANCE = 5e-4
"""How far a figure may be off: what three decimals show. Machines differ in the last digits of a network's answers."""

GOOD = ("same", "grown", "unknown", "other")
"""States of an item that do not speak against a pack."""
_TITLES = {
    "report.html": "The report",
    DATA: "The figures of the pack",
    "experiment.json": "The document in the pack",
    "best.safetensors": "The weights in the pack",
    "choices.jsonl": "The operating points in the pack",
    "sides.json": "The sides of the run in the pack",
    "terms.jsonl": "The terms on which the run answers, in the pack",
    asked.READINGS: "What readers answered",
    "methods.md": "The methods paragraph",
    "model-card.md": "The model card",
    "checklists.csv": "The checklists",
    "split.csv": "The split in the pack",
    "network.svg": "The drawing of the network",
    "data-flow.svg": "The drawing of the data flow",
}
_DATA_TITLES = {
    "pixels.bin": "The scans",
    "masks.bin": "The outlines",
    "cases.jsonl": "The cases and their labels",
    "splits.jsonl": "The split",
    "ledger.jsonl": "The ledger of the import",
    "edits.jsonl": "The labels that people corrected",
    "dataset.json": "The description of the data set",
}
_PASSING = ("at", "openings", "run", "dataset", "leaky")  # an audit after the figures may find more leaks


@dataclass(frozen=True)
class Item:
    """One thing that a pack rests on: its state is same, changed, missing, grown (more has come behind it), unknown
    (nothing here to compare it with) or other (another version computed here); words say it."""

    item: str
    state: str
    words: str


@dataclass(frozen=True)
class Number:
    """One number of the pack, by its place there, and what it is now; None is undefined."""

    place: str
    said: Any
    now: Any
    holds: bool


def verify(pack: Path, home: Path, *, place: Path | None = None, told: Told | None = None) -> dict[str, Any]:
    """Checks a pack against this data folder.

    Args:
        pack: its zip or folder. place: where passing files may lie; the folder of jobs by default.
        told: called with (cases asked, cases in all).
    Returns:
        JSON data: {run, digest (of the manifest), made, holds, words, items [{item, state, words}], numbers {checked,
        holding, exact, failing [{place, said, now}], by_part {part: [holding, checked]}, all [[place, said, now,
        holds]]}, not_checked [words], notes [words]}.
    Raises:
        NoPack: it cannot be read as one.
    """
    place = place or home / "jobs"
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    with opened(Path(pack), place) as folder:
        items = list(_own_files(folder))
        found = _document(folder, items)
        items += _here(folder, found, home)
        dataset, of_data = _data(found, home)
        items += of_data
        broken = _broken(items)
        numbers: list[Number] = []
        why = broken
        if dataset is not None and not broken:
            with tempfile.TemporaryDirectory(prefix=".new-", dir=place) as passing:
                try:
                    twin = _twin(Path(passing), folder, dataset, found)
                    items.append(_split(Dataset.open(twin.home, dataset.id), found))
                    numbers = _again(twin, found, told)
                except Exception as error:
                    if all(item.state in GOOD for item in items):
                        raise
                    why = f"They could not be computed again: {_sentence(error)}"
        return _told(folder, found, items, numbers, why)


# -- items ------------------------------------------------------------------------------------------------------------


def _own_files(folder: Path) -> Iterator[Item]:
    """Each file of the pack against its manifest."""
    manifest = read_json(folder / MANIFEST) or {}
    listed = manifest.get("files")
    if not isinstance(listed, dict) or DATA not in listed:
        yield Item("The list of hashes", "changed", f"{MANIFEST} cannot be read, so nothing proves the other files.")
        return
    for name, sha256 in listed.items():
        title, path = _TITLES.get(str(name), str(name)), folder / Path(str(name)).name
        if not path.is_file():
            yield Item(title, "missing", f"{name} is not in the pack any more.")
        elif hashes.of_file(path) != sha256:
            yield Item(title, "changed", f"{name} is not as it was packed.")
        else:
            yield Item(title, "same", f"{name} is as it was packed.")


def _document(folder: Path, items: list[Item]) -> dict[str, Any]:
    """pack.json, as far as it can be read; its own change is an item already."""
    try:
        found = read_json(folder / DATA)
    except (OSError, UnicodeDecodeError):
        found = None
    if found is None or not {"run", "evaluation", "hashes", "data", "flow"} <= set(found):
        bad = [item.words for item in items if item.state not in GOOD]
        raise NoPack(f"{DATA} cannot be read, so nothing can be checked against it. {' '.join(bad)}".strip())
    if int(found.get("format") or 0) > facts.FORMAT:
        raise NoPack("This pack was made by a later version of ScanLoom: verify it with that version.")
    return found


def _here(folder: Path, found: Mapping[str, Any], home: Path) -> Iterator[Item]:
    """What the run of this data folder, the program and the machine say to the pack."""
    for name, title in (("document", "The document in the pack"), ("weights", "The weights in the pack")):
        file = {"document": "experiment.json", "weights": "best.safetensors"}[name]
        if hashes.of_file(folder / file) != found["hashes"][name]:
            yield Item(title, "changed", f"{file} is not the one that the figures were computed with.")
    run = Run(home, str(found["run"]))
    if (run.folder / "experiment.json").is_file():
        for name, file in (("document", "experiment.json"), ("weights", "best.safetensors")):
            same = hashes.of_file(run.folder / file) == found["hashes"][name]
            yield Item(
                f"The {name} of the run here",
                "same" if same else "changed",
                f"{file} of run {run.id} is {'that of the pack' if same else 'not that of the pack any more'}.",
            )
        known, own = digests(run), hashes.of_file(folder / MANIFEST)
        if known:
            state = "same" if own in known else "changed"
            words = "The pack was made here, as it is." if own in known else "No pack with these hashes was made here."
            yield Item("The list of hashes", state, words)
        else:
            yield Item("The list of hashes", "unknown", "It is not on record here that this pack was made.")
    else:
        yield Item("The run", "unknown", f"Run {run.id} is not in this data folder; the pack's own copy was asked.")
    code = hashes.of_code()["sha256"] == found["hashes"]["code"]["sha256"]
    words = "the one that made the pack" if code else "another version than the one that made the pack"
    yield Item("The program", "same" if code else "other", f"The program that computed here is {words}.")
    yield _machine(found)
    yield from _opened_since(found, home)


def _machine(found: Mapping[str, Any]) -> Item:
    here, then = environment.here(), found.get("environment") or {}
    versions = {**{"python": then.get("python")}, **(then.get("packages") or {})}
    now = {"python": here["python"], **here["packages"]}
    other = [
        f"{name} {number} then, {now.get(name, 'absent')} now"
        for name, number in versions.items()
        if now.get(name) != number
    ]
    if other:
        return Item("The packages", "other", "Other versions: " + "; ".join(other) + ".")
    return Item("The packages", "same", "Every package has the version it had.")


def _opened_since(found: Mapping[str, Any], home: Path) -> Iterator[Item]:
    try:
        dataset = Dataset.open(home, str(found["data"]["id"]))
    except (UnknownDataset, ValueError, LookupError, OSError):
        return
    then, now = found["hashes"]["openings"], hashes.of_openings(dataset)
    if hashes.of_file(facts.openings_file(dataset), then["bytes"]) != then["sha256"] and then["bytes"]:
        words = "The record of looks at the test side is not what it was: some were taken out or changed."
        yield Item("The openings of the test side", "changed", words)
    elif now["count"] > then["count"]:
        words = f"The test side was opened {now['count'] - then['count']} more times since."
        yield Item("The openings of the test side", "grown", words)
    else:
        yield Item("The openings of the test side", "same", "The test side was not opened since.")


def _data(found: Mapping[str, Any], home: Path) -> tuple[Dataset | None, list[Item]]:
    """The data set of the pack and its files against their hashes."""
    id = str(found["data"]["id"])
    try:
        dataset = Dataset.open(home, id)
    except UnknownDataset:
        return None, [Item("The data set", "missing", f"Data set {id} is not in this data folder.")]
    except (ValueError, LookupError, TypeError, OSError):
        return None, [Item(_DATA_TITLES["dataset.json"], "changed", "dataset.json cannot be read any more.")]
    items = []
    for name, told in found["hashes"]["data"].items():
        title = _DATA_TITLES.get(name, "The outlines that people drew" if name.startswith("drawn/") else name)
        items.append(_file(dataset, name, title, told))
    return dataset, items


def _file(dataset: Dataset, name: str, title: str, told: Mapping[str, Any]) -> Item:
    path = dataset.folder / name
    if name == "dataset.json":
        same = hashes.of_bytes(hashes.lasting(read_json(path) or {})) == told["sha256"]
        return Item(title, "same" if same else "changed", f"{name} is {'as' if same else 'not as'} it was.")
    if not told["bytes"] and not path.is_file():
        return Item(title, "same", f"{name} is as it was: there is none.")
    if not path.is_file():
        return Item(title, "missing", f"{name} is not in the data set any more.")
    if hashes.of_file(path, told["bytes"]) != told["sha256"]:
        where = ""
        if name == "pixels.bin" and path.stat().st_size >= told["bytes"]:
            cases = hashes.changed_cases(dataset)
            where = f" Not as imported: {', '.join(cases)}." if cases else ""
        return Item(title, "changed", f"{name} is not as it was.{where}")
    size = {**dataset.sizes, "edits.jsonl": dataset.edited}.get(name, told["bytes"])
    if size > told["bytes"]:
        return Item(title, "grown", f"{name} is as it was; more has come behind it since, which the figures leave out.")
    return Item(title, "same", f"{name} is as it was.")


def _split(dataset: Dataset, found: Mapping[str, Any]) -> Item:
    same = hashes.of_split(dataset) == found["hashes"]["split"]
    words = "Every case is on the side where it was." if same else "Cases are on other sides, or of other patients."
    return Item("Who is on which side", "same" if same else "changed", words)


def _broken(items: list[Item]) -> str:
    """Why figures cannot be asked for again, "" where they can."""
    bad = {item.item for item in items if item.state not in GOOD}
    for title in (_TITLES["experiment.json"], _TITLES["best.safetensors"]):
        if title in bad:
            return f"{title} {'are' if 'weights' in title else 'is'} not what the figures were computed with."
    if "The data set" in bad or any(i.state == "missing" and i.item in _DATA_TITLES.values() for i in items):
        return "The scans that the figures were computed on are not all here."
    return ""


# -- figures ----------------------------------------------------------------------------------------------------------


def _twin(place: Path, pack: Path, dataset: Dataset, found: Mapping[str, Any]) -> Run:
    """The run of the pack in a data folder of its own, beside the data set as it was when the pack was made."""
    folder = place / "datasets" / dataset.id
    (folder / "drawn").mkdir(parents=True)
    told = found["hashes"]["data"]
    for name, size in ((name, row["bytes"]) for name, row in told.items() if name != "dataset.json"):
        if name == "edits.jsonl":
            if size:
                with open(dataset.folder / name, "rb") as file:
                    (folder / name).write_bytes(file.read(size))
        else:
            os.symlink((dataset.folder / name).resolve(), folder / name)
    described = json.loads((dataset.folder / "dataset.json").read_text())
    described["sizes"] = {name: told[name]["bytes"] for name in described["sizes"]}
    described["num_cases"] = found["flow"]["cases"]
    described["fingerprint"] = {k: v for k, v in found["data"].items() if k not in ("id", "edited")}
    (folder / "dataset.json").write_text(json.dumps(described))
    run = Run(place, str(found["run"]))
    run.folder.mkdir(parents=True)
    for name in ASIS:
        if (pack / name).is_file():
            shutil.copyfile(pack / name, run.folder / name)
    asked.put_readings(pack, run)
    return run


def _again(twin: Run, found: Mapping[str, Any], told: Told | None) -> list[Number]:
    """Every number of the evaluation, the operating points, the probes and what else was asked, computed anew."""
    before = found["evaluation"]
    resamples = int((before.get("interval") or {}).get("resamples") or 1)
    now = evaluate(twin, twin.home, resamples=resamples, progress=told)
    numbers = list(compared("evaluation", before, json.loads(json.dumps(now))))
    numbers += compared("operating", found.get("operating") or {}, facts.points(twin))
    blanked = (found.get("probes") or {}).get("blanked")
    if blanked:
        numbers += compared("blanked", blanked, json.loads(json.dumps(blanking.ask(twin, twin.home, told))))
    for name, said, now in asked.again(twin, found.get("asked") or {}, told):
        numbers += compared(name, said, now)
    return numbers


def compared(place: str, said: Any, now: Any) -> Iterator[Number]:
    """Each leaf of `said` beside that of `now`, and leaves that only one of them has."""
    if isinstance(said, Mapping) and isinstance(now, Mapping):
        for name in said:  # what a later version tells besides was not said
            if place == "evaluation" and name in _PASSING:
                continue
            yield from compared(f"{place}.{name}", said.get(name), now.get(name))
    elif isinstance(said, list) and isinstance(now, list) and len(said) == len(now):
        for k, (one, other) in enumerate(zip(said, now, strict=True)):
            yield from compared(f"{place}[{k}]", one, other)
    elif isinstance(said, dict | list) or isinstance(now, dict | list):
        if said or now:
            yield Number(place, _short(said), _short(now), False)
    else:
        yield Number(place, said, now, _equal(said, now))


def _equal(said: Any, now: Any) -> bool:
    numbers = [isinstance(v, int | float) and not isinstance(v, bool) for v in (said, now)]
    if all(numbers):
        return math.isclose(said, now, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(said == now)


def _short(value: Any) -> Any:
    return f"{len(value)} entries" if isinstance(value, dict | list) else value


# -- the answer -------------------------------------------------------------------------------------------------------


def _told(folder: Path, found: Mapping[str, Any], items: list[Item], numbers: list[Number], why: str) -> dict[str, Any]:
    failing = [number for number in numbers if not number.holds]
    changed = [item for item in items if item.state not in GOOD]
    parts: dict[str, list[int]] = {}
    for number in numbers:
        row = parts.setdefault(".".join(number.place.split("[")[0].split(".")[:2]), [0, 0])
        row[0] += number.holds
        row[1] += 1
    holds = not failing and not changed and bool(numbers)
    return {
        "run": found["run"],
        "digest": hashes.of_file(folder / MANIFEST),
        "made": found.get("made", ""),
        "holds": holds,
        "words": _words(changed, failing, numbers, why),
        "items": [asdict(item) for item in items],
        "numbers": {
            "checked": len(numbers),
            "holding": len(numbers) - len(failing),
            "exact": sum(number.said == number.now for number in numbers),
            "failing": [{"place": n.place, "said": n.said, "now": n.now} for n in failing],
            "by_part": parts,
            "all": [[n.place, n.said, n.now, n.holds] for n in numbers],
        },
        "not_checked": _not_checked(found, why),
    }


def _words(changed: list[Item], failing: list[Number], numbers: list[Number], why: str) -> str:
    if not changed and not failing and numbers:
        return f"The pack holds: nothing was changed, and all {len(numbers):,} numbers came out again."
    said = [f"{item.item}: {item.words}" for item in changed]
    if failing:
        said.append(f"{len(failing):,} of {len(numbers):,} numbers come out differently now.")
    elif numbers:
        said.append(f"All {len(numbers):,} numbers came out again all the same.")
    if why:
        said.append(f"No number was computed again. {why}")
    return "The pack does not hold. " + " ".join(said)


def _not_checked(found: Mapping[str, Any], why: str) -> list[str]:
    said = [why] if why else []
    said.append("The training itself was not repeated: its curves are taken as they were recorded.")
    if found.get("baseline"):
        said.append("The baseline of frozen features was not computed again.")
    return said + asked.unasked(found.get("asked") or {})


def _sentence(error: Exception) -> str:
    words = str(error).strip()
    return (
        words if words and type(error).__module__.startswith(("builder", "tasks")) else "what they rest on is damaged."
    )
