"""Writing the evidence pack of a run: a folder and a zip with the report, the figures, the document and the weights.

    <run>-evidence/report.html     for people: stands alone, opens without a network, prints
                   pack.json       the same as data (see `facts.gather`)
                   experiment.json, best.safetensors, choices.jsonl, sides.json      what is needed to ask again
                   readings.json   what readers answered, nameless, where somebody read blind
                   methods.md, model-card.md, checklists.csv, split.csv, network.svg, data-flow.svg
                   manifest.json   {file: SHA-256}; its own SHA-256 names the pack

Packs that were made here are on record in the run's folder (evidence.jsonl), so that one whose manifest was written
anew is known for what it is.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from builder import drawing
from builder.data import Dataset
from builder.evaluate import evaluate
from builder.evidence import asked, checklists, facts, flow, hashes, report, words
from builder.evidence.facts import Facts, NoEvidence
from builder.measures.bootstrap import RESAMPLES
from builder.parting import dataset_of
from builder.runs import Run, append_whole, read_json, write_atomic

MANIFEST, DATA = "manifest.json", "pack.json"
RECORD = "evidence.jsonl"
ASIS = ("experiment.json", "best.safetensors", "choices.jsonl", "sides.json", "terms.jsonl")
"""Files of a run's folder that are needed to ask it again."""
Told = Callable[[int, int], None]


def make(
    run: Run, home: Path, out: Path | None = None, *, resamples: int = RESAMPLES, told: Told | None = None
) -> Path:
    """Writes the pack of a run and gives back its zip; the folder of the same name lies beside it.

    Where labels were corrected since the test side was opened, it is opened again, which counts as an opening.

    Args:
        out: the folder to write into; the run's own folder `evidence` by default.
        told: called with (cases asked, cases in all) where the test side is opened again.
    Raises:
        NoEvidence: the test side was never opened, or something lies there that is not as it was packed.
        OSError: the folder cannot be written.
        UnknownDataset, PredictError, EvaluateError: as `evaluate`.
    """
    out, name = Path(out) if out is not None else run.folder / "evidence", f"{run.id}-evidence"
    if (out / name).exists():
        _refuse_foreign(out / name)
    dataset = dataset_of(run.folder, home, run.experiment.data.dataset)
    if facts.evaluation(run) is not None and facts.outdated(run, dataset):
        evaluate(run, home, resamples=resamples, progress=told)
    found = facts.gather(run, home)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".evidence-", dir=out) as passing:
        folder = Path(passing) / name
        folder.mkdir()
        digest = _fill(folder, run, dataset, found)
        archive = Path(passing) / f"{name}.zip"
        _zip(folder, archive)
        if (out / name).exists():
            shutil.rmtree(out / name)
        folder.rename(out / name)
        archive.replace(out / archive.name)
    line = json.dumps({"at": time.time(), "digest": digest, "run": run.id}) + "\n"
    with open(run.folder / RECORD, "ab") as file:
        append_whole(file.fileno(), line.encode())
    return out / f"{name}.zip"


def made(run: Run) -> Path | None:
    """The zip of the newest pack in the run's own folder; None where there is none."""
    path = run.folder / "evidence" / f"{run.id}-evidence.zip"
    return path if path.is_file() else None


def digests(run: Run) -> dict[str, float]:
    """{SHA-256 of the manifest: when it was made} of the packs that were made here."""
    found = {}
    try:
        lines = (run.folder / RECORD).read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    for line in lines:
        try:
            plain = json.loads(line)
            found[str(plain["digest"])] = float(plain["at"])
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _refuse_foreign(folder: Path) -> None:
    """Refuses to put a pack in the place of what no pack is, or of one in which somebody has worked since: a checklist
    has items for a person."""
    manifest = (read_json(folder / MANIFEST) or {}).get("files")
    if not isinstance(manifest, dict):
        raise NoEvidence(
            f"{folder.name} in that folder is no evidence pack, so it is left as it is: choose another folder."
        )
    there = {path.name for path in folder.iterdir()} - {MANIFEST}
    changed = sorted(name for name in there if hashes.of_file(folder / name) != manifest.get(name))
    if changed:
        raise NoEvidence(
            f"In {folder} there is what somebody has changed since it was packed ({', '.join(changed)}), so it is left "
            "as it is: move it away, or choose another folder."
        )


def _fill(folder: Path, run: Run, dataset: Dataset, found: Facts) -> str:
    """Writes all files and, last, the manifest; returns its SHA-256."""
    for name in ASIS:
        if (run.folder / name).is_file():
            shutil.copyfile(run.folder / name, folder / name)
    if readings := asked.readings_text(run):
        (folder / asked.READINGS).write_text(readings, encoding="utf-8")
    lists = checklists.filled(found)
    texts = {
        DATA: json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "methods.md": words.methods(found) + "\n",
        "model-card.md": words.model_card(found),
        "checklists.csv": _table(checklists.rows(lists)),
        "split.csv": _table(_split(dataset)),
        "data-flow.svg": flow.drawn(found["flow"]),
        "network.svg": drawing.network_svg(run.experiment, max(1, len(dataset.classes))),
        "report.html": report.html(found, lists),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    files = {path.name: hashes.of_file(path) for path in sorted(folder.iterdir())}
    text = json.dumps({"format": facts.FORMAT, "run": run.id, "files": files}, indent=1) + "\n"
    write_atomic(folder / MANIFEST, text)
    return hashes.of_bytes(text.encode())


def _split(dataset: Dataset) -> list[list[Any]]:
    """Case, number of its patient, side: who is where, without any pseudonym."""
    rows: list[list[Any]] = [["case", "patient", "side"]]
    rows += [[case.id, int(n), case.split] for case, n in zip(dataset.cases, dataset.patients, strict=True)]
    return rows


def _table(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _zip(folder: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.iterdir()):
            kind = zipfile.ZIP_STORED if path.suffix == ".safetensors" else zipfile.ZIP_DEFLATED
            packed.write(path, f"{folder.name}/{path.name}", compress_type=kind)
