"""Kinds of scans on which a run errs are found where they are planted, and nowhere else."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import little_run
import numpy as np
import pytest
from test_subgroups import case

from builder import error_groups
from builder.error_groups import NotAsked, ask, denser, kept_of
from builder.measures.judged import Judged
from builder.runs import RunStore
from builder.scan import Scan

NUM = 120
KIND = np.arange(NUM) < 30  # a quarter of the scans look otherwise
LABELS = np.arange(NUM) % 2


def features(seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(0, 1, (NUM, 20)) + 4 * KIND[:, None] * np.linspace(1, -1, 20)


def found(errors: np.ndarray, patients: np.ndarray | None = None, **more: Any) -> list[tuple[np.ndarray, float]]:
    people = np.arange(NUM) if patients is None else patients
    branches = error_groups._branches(features(), people)
    return denser(branches, errors, LABELS.astype(str), people, **{"draws": 199, **more})


def test_a_kind_of_scan_with_many_errors_is_found_whole():
    random = np.random.default_rng(1)
    errors = random.random(NUM) < np.where(KIND, 0.6, 0.08)
    (members, p), *others = found(errors)
    assert p <= 0.01 and not others
    assert len(np.intersect1d(members, np.flatnonzero(KIND))) >= 0.9 * len(members) and len(members) >= 20


def test_scattered_errors_are_claimed_no_oftener_than_the_level_says():
    branches = error_groups._branches(features(), np.arange(NUM))
    claimed = 0
    for seed in range(60):
        errors = np.random.default_rng(seed).random(NUM) < 0.2
        claimed += bool(denser(branches, errors, LABELS.astype(str), np.arange(NUM), draws=59, seed=seed))
    assert claimed <= 8, f"{claimed} of 60, where about 3 are expected"


def test_a_hard_class_and_a_single_hard_patient_are_no_kind_of_scan():
    assert found(LABELS == 1) == [], "every scan of one class is wrong, wherever it lies"
    patients = np.where(np.arange(NUM) < 15, 0, np.arange(NUM))  # fifteen scans of one patient, all wrong
    assert found(np.arange(NUM) < 15, patients) == []
    assert found(np.zeros(NUM, bool)) == []
    # Scans of one patient that look like each other and like nobody else's, nearly all wrong: still one patient.
    looks = np.random.default_rng(0).normal(0, 1, (NUM, 20))
    looks[:10] = 6 + looks[:10] / 20
    branches = error_groups._branches(looks, np.arange(NUM) // 10)
    assert branches and all(len(np.unique(members // 10)) > 1 for members in branches)


@pytest.fixture
def asked(home, monkeypatch):
    """Asks a made-up run that errs as told on made-up scans; the kind on which it errs is dark and from site 2."""

    def run_of(errors: np.ndarray, sure: float = 0.95) -> tuple[Any, dict[str, Any]]:
        run = RunStore(home).create(little_run.starter().replace("data.dataset", "d"), queue=False)
        (run.folder / "best.safetensors").write_bytes(b"")
        cases = [replace(case(n), attributes={"site": "site 2" if KIND[n] else "site 1"}) for n in range(NUM)]
        grey = np.random.default_rng(2).integers(0, 40, (NUM, 1, 1, 64, 64)).astype(np.uint8)
        dataset = SimpleNamespace(cases=cases, edited=0, scan=lambda n: Scan(grey[n] + np.uint8(0 if KIND[n] else 150)))
        answer = np.where(errors, 1 - LABELS, LABELS)
        chances = np.where(np.arange(2) == answer[:, None], sure, 1 - sure)
        ids = np.array([one.id for one in cases])
        told = {"probabilities": chances, "labels": LABELS, "patients": np.arange(NUM), "cases": ids}
        monkeypatch.setattr(error_groups, "answered", lambda *_: (("well", "ill"), False, told))
        monkeypatch.setattr(error_groups, "dataset_of", lambda *_: dataset)
        monkeypatch.setattr(error_groups.baseline, "features_of", lambda *_: features())
        return run, ask(run, home, draws=199)

    return run_of


def test_what_a_group_has_in_common_is_told_with_its_rate_and_its_surest_errors(asked):
    random = np.random.default_rng(1)
    run, told = asked(random.random(NUM) < np.where(KIND, 0.6, 0.05))
    assert kept_of(run) == json.loads(json.dumps(told))
    (group,) = told["groups"]
    assert group["about"] == "errors" and group["rate"]["low"] > told["rate"]["value"] > group["outside"]
    shared = " ".join(group["shared"])
    assert ": site 2 (" in shared and "dark pictures" in shared
    assert group["sure"] == group["wrong"] and {row["chance"] for row in group["cases"]} == {0.95}
    assert told["words"][0].startswith(
        f"Group 1: of {group['n']} scans of {group['patients']} patients that look alike"
    )


def test_where_nothing_is_common_nothing_is_claimed_and_few_errors_are_refused(asked):
    _, told = asked(np.arange(NUM) % 10 == 0)
    assert told["groups"] == [] and "scattered" in told["words"][0]
    with pytest.raises(NotAsked, match="erred on 2 of 120 scans"):
        asked(np.arange(NUM) < 2)


def test_a_kind_of_scan_with_low_marks_is_found_where_there_are_no_wrong_answers(home, asked, monkeypatch):
    random = np.random.default_rng(3)
    run, _ = asked(random.random(NUM) < 0.2)
    dice = np.where(KIND, 0.5, 0.85) + random.normal(0, 0.05, NUM)
    cases = [case(n) for n in range(NUM)]
    ids = np.array([one.id for one in cases])
    marks = dict(zip(map(str, ids), dice.tolist(), strict=True))
    judged = Judged(ids, np.arange(NUM), (), marks, "Dice")
    monkeypatch.setattr(error_groups, "answered", lambda *_: (("tumor",), False, {"cases": ids}))
    monkeypatch.setattr(error_groups.task, "find", lambda name: SimpleNamespace(judged=lambda *_: judged))
    told = ask(run, home, draws=199)
    (group,) = told["groups"]
    assert group["about"] == "low" and group["wrong"] >= 25 and group["outside"] < 0.1
    assert told["low"]["marked"] == "Dice" and told["low"]["cut"] < 0.7 and told["sure"] == 0
    assert "are among the worst answered (Dice up to 0." in told["words"][0]
    assert "Of 120 scans the 30 that were answered worst are looked at: Dice up to 0." in told["looked"][0]
    assert group["cases"][0]["mark"] == pytest.approx(dice.min(), abs=0.001), "the worst first"
