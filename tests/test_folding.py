"""Cross-validation and forecast by the real engine: who learns from what, one pool, and going on after a stop."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import little_run
import numpy as np
import pytest

from builder import folding, forecast, nested, task, worker
from builder.branch import branch
from builder.compare import CompareError, compare
from builder.data import Dataset
from builder.evaluate import evaluate, kept, was_opened
from builder.folds import FoldError, groups_of
from builder.gathered import gather
from builder.measures import bootstrap
from builder.parting import Parting, adopt, dataset_of
from builder.rounds import Round, RoundStore, ended_badly
from builder.runs import Finished, Record, Run, RunStore, StoreError
from builder.schedule import rates
from builder.spec import Choice, Dimension, Experiment, Search, Training
from builder.train import train
from tasks import phantoms


@dataclass
class Made:
    home: Path
    dataset: Dataset
    experiment: Experiment
    round: Round


def learn(run: Run) -> None:
    """As the worker does it, in this process."""
    experiment = run.experiment
    dataset = dataset_of(run.folder, run.home, experiment.data.dataset)
    with Record(run.folder / "events.jsonl") as record:
        for event in train(experiment, task.find(experiment.task), dataset, run.folder, device="cpu"):
            record.append(event)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A cross-validation of 3 folds on 60 phantoms, learned to its end for one epoch each and gathered."""
    place = tmp_path_factory.mktemp("folding")
    home = place / "home"
    folder = phantoms.write_cohort(place / "phantoms", seed=5, num_images=60, size_px=48)
    dataset = little_run.imported(home, folder, synthetic=True)
    experiment = little_run.starter().replace("data.size_px", 24).replace("training.epochs", 1)
    experiment = experiment.replace("data.dataset", dataset.id)
    away = next(case.id for case in dataset.cases if case.split == "train")
    experiment = experiment.replace("data.exclude", (away,))
    one = folding.begin(home, experiment, 3, 1, queue=False)
    for run in one.runs():
        learn(run)
    gather(one)
    return Made(home, dataset, experiment, one)


def test_each_case_outside_the_test_side_is_held_out_once_and_no_patient_is_on_two_sides(made: Made):
    groups, by_id = groups_of(made.dataset), {case.id: k for k, case in enumerate(made.dataset.cases)}
    held: list[str] = []
    for run in made.round.runs():
        sides = Parting.of(run.folder).sides  # type: ignore[union-attr]
        of_group: dict[int, set[str]] = {}
        for case, side in sides.items():
            of_group.setdefault(groups[by_id[case]], set()).add(side)
        assert all(len(found) == 1 for found in of_group.values())
        assert set(sides.values()) == {"train", "val", "test"}
        held += [case for case, side in sides.items() if side == "test"]
        closed = {case.id for case in made.dataset.cases if case.split == "test"}
        assert closed and not closed & set(sides)
        assert made.experiment.data.exclude[0] not in {case for case, side in sides.items() if side == "train"}
    outside = [case.id for case in made.dataset.cases if case.split != "test"]
    assert sorted(held) == sorted(outside)


def test_the_pool_holds_each_answer_once_and_its_figures_are_those_of_the_pool(made: Made):
    found = made.round.result()
    assert found is not None
    with np.load(made.round.folder / "out-of-fold-0.npz") as pool:
        answers = {name: pool[name] for name in pool.files}
    assert len(set(answers["cases"])) == len(answers["cases"]) == found["n"]
    parts = [kept(run, "test") for run in made.round.runs()]
    for part in parts:
        assert part is not None
        rows = np.searchsorted(np.sort(answers["cases"]), part["cases"])
        order = np.argsort(answers["cases"])
        np.testing.assert_array_equal(answers["probabilities"][order][rows], part["probabilities"])
    kind = task.find("recognition")
    whole = kind.report(answers, made.dataset.classes, False, 50)
    auc = found["metrics"]["auc"]
    assert auc["value"] == pytest.approx(whole["metrics"]["auc"]["value"])
    assert auc["low"] <= auc["value"] <= auc["high"]
    assert auc["mean"] == pytest.approx(np.mean(auc["folds"])) and auc["sd"] == pytest.approx(
        np.std(auc["folds"], ddof=1)
    )
    assert folding.words(found).startswith("auc ") and json.dumps(found)
    assert not was_opened(made.dataset)


def test_what_was_held_out_is_in_no_stored_fact_of_the_run(made: Made):
    run = made.round.runs()[0]
    own = dataset_of(run.folder, made.home, made.dataset.id)
    prepared, usual = own.prepared(run.experiment.data), made.dataset.prepared(run.experiment.data)
    rows = prepared.rows(own.indices("train")).astype(np.float64) / prepared.unit
    assert prepared.mean == pytest.approx(rows.mean((0, 2, 3)), rel=1e-9) and prepared.std == pytest.approx(
        rows.std((0, 2, 3)), rel=1e-6
    )
    assert not np.array_equal(prepared.mean, usual.mean)  # and the data set's own are as they were
    rows = usual.rows(made.dataset.indices("train")).astype(np.float64) / usual.unit
    assert usual.mean == pytest.approx(rows.mean((0, 2, 3)), rel=1e-9)


def test_evaluating_a_fold_opens_no_test_side_and_a_branch_of_it_keeps_its_sides(made: Made):
    run = made.round.runs()[1]
    found = evaluate(run, made.home, "test", resamples=10)
    assert "openings" not in found and found["came"]["words"] == "fold 2 of 3" and not was_opened(made.dataset)
    child = branch(RunStore(made.home), run, run.experiment.replace("training.epochs", 2), queue=False)
    assert Parting.of(child.folder) == Parting.of(run.folder)


def test_every_process_of_a_fold_learns_from_the_scans_of_the_fold(made: Made, monkeypatch: pytest.MonkeyPatch):
    run, given = made.round.runs()[2], []

    def follows(experiment: Experiment, kind: task.Task, dataset: Dataset, folder: Path, **options: object):
        given.append(dataset)
        yield Finished("done")

    monkeypatch.setattr("builder.train.train", follows)
    assert worker.follow(run) == 0
    learned = {given[0].cases[i].id for i in given[0].indices("train")}
    sides = Parting.of(run.folder).sides  # type: ignore[union-attr]
    assert learned == {case for case, side in sides.items() if side == "train"}


def test_two_folds_are_not_compared_and_it_is_said_why(made: Made):
    first, second, _ = made.round.runs()
    with pytest.raises(CompareError, match=f"run {first.id} is fold 1 of 3, run .* has sides of its own"):
        compare(first, second, made.home)


def test_a_run_with_damaged_sides_is_refused_and_never_trained_on_others(made: Made, tmp_path: Path):
    shutil.copytree(made.round.runs()[0].folder, tmp_path / "run")
    (tmp_path / "run" / "sides.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        dataset_of(tmp_path / "run", made.home, made.dataset.id)


def test_stopped_lost_and_deleted_folds_go_on_and_the_answer_is_only_that_of_these_runs(made: Made, tmp_path: Path):
    home = tmp_path / "home"
    shutil.copytree(made.home, home)
    one = RoundStore(home).round(made.round.id)
    first, second, third = one.runs()
    with Record(first.folder / "events.jsonl") as record:
        record.append(Finished("stopped", "Stopped on request."))
    (second.folder / "events.jsonl").unlink()  # killed before a word: lost
    RunStore(home).delete(third.id)
    view = one.view()
    assert (view.done, view.active, view.ended) == (0, 0, False)
    words = ended_badly(view.views, one.members())
    assert len(words) == 3 and "deleted" in words[2]
    with pytest.raises(FoldError, match="0 of 3 folds"):
        gather(one)
    sides = Parting.of(made.round.runs()[2].folder)
    one.resume()
    again = one.runs()
    assert [run.id for run in again[:2]] == [first.id, second.id] and again[2].id != third.id
    assert [run.view().status for run in again] == ["queued"] * 3
    assert Parting.of(again[2].folder).sides == sides.sides  # type: ignore[union-attr]
    assert one.result() is None
    one.stop()
    assert all(run.stop_wanted for run in again)


def test_a_round_that_was_cut_short_while_it_began_makes_no_run_twice(made: Made, tmp_path: Path):
    home = tmp_path / "home"
    shutil.copytree(made.home / "datasets", home / "datasets")
    one = folding.begin(home, made.experiment, 2, queue=False)
    plan = json.loads((one.folder / "plan.json").read_text())
    for member in plan["members"]:
        member.pop("again")
        member["run"] = ""
    (one.folder / "plan.json").write_text(json.dumps(plan))  # as it was before the runs were noted
    assert len(one.view().views) == 2 and all(run.folder.is_dir() for run in one.runs()), "the page tells it meanwhile"
    one.complete(queue=False)
    assert len(RunStore(home).runs()) == 2 and all(run.folder.is_dir() for run in one.runs())
    # ---- without its sides a fold is made on no others
    shutil.rmtree(one.runs()[1].folder)
    (one.folder / "sides" / "1.json").write_text("{")
    with pytest.raises(StoreError, match="sides of fold 2 of 2 cannot be read"):
        one.resume()
    assert len(RunStore(home).runs()) == 1


def test_a_copy_that_an_audit_finds_is_kept_together_and_stamps_the_folds_that_were_made_before(
    made: Made, tmp_path: Path
):
    home = tmp_path / "home"
    shutil.copytree(made.home, home)
    one, dataset = RoundStore(home).round(made.round.id), Dataset.open(home, made.dataset.id)
    before = made.round.result()
    assert before and before["leaky"] == "" and "seen no scan of its patient" in before["notes"][0]
    sides = Parting.of(one.runs()[0].folder).sides  # type: ignore[union-attr]
    by_id = {case.id: place for place, case in enumerate(dataset.cases)}
    away = made.experiment.data.exclude
    learned, held = (next(i for i, s in sides.items() if s == side and i not in away) for side in ("train", "test"))
    (dataset.folder / "copies.json").write_text(json.dumps([sorted((by_id[learned], by_id[held]))]))
    assert one.result() is None, "what was said before holds no longer"
    found = gather(one)
    assert one.result() == json.loads(json.dumps(found))
    assert found["leaky"].startswith("LEAKY: ") and found["notes"][0].startswith(found["leaky"])
    assert not any("seen no scan of its patient" in note for note in found["notes"])
    anew = folding.members(Dataset.open(home, dataset.id), made.experiment, 3)
    assert all(part.sides[learned] == part.sides[held] for part in anew)  # type: ignore[index]


def test_repeats_fold_anew_and_are_judged_as_their_average(made: Made):
    parts = folding.members(made.dataset, made.experiment, 2, 2)
    assert [m.words for m in parts] == [
        "fold 1 of 2, repeat 1", "fold 2 of 2, repeat 1", "fold 1 of 2, repeat 2", "fold 2 of 2, repeat 2"
    ]  # fmt: skip
    assert (
        parts[0].sides != parts[2].sides and parts[2].experiment.training.seed == parts[0].experiment.training.seed + 1
    )
    kind, pool = task.find("recognition"), kept(made.round.runs()[0], "test")
    assert pool is not None
    other = {**pool, "probabilities": np.roll(pool["probabilities"], 1, 0)}
    _, both = folding.judged(kind, [pool, other], made.dataset.classes, False, 200)
    each = [kind.report(p, made.dataset.classes, False, 2)["metrics"]["auc"]["value"] for p in (pool, other)]
    assert both["auc"]["value"] == pytest.approx(np.mean(each)) and both["auc"]["low"] < both["auc"]["high"]


def test_the_average_of_equal_repeats_has_the_interval_of_one():
    """Exact where all are right, corrected where resampling shifts the figure (ECE, mAP)."""
    kind, chance, given = task.find("recognition"), np.random.default_rng(3), np.repeat([0, 1], 30)
    for noise in (0.0, 0.5):
        sure = np.clip(np.where(given == 1, 0.9, 0.1) + chance.normal(0, 1, 60) * noise, 0.01, 0.99)
        pool = {"probabilities": np.stack([1 - sure, sure], 1), "labels": given}
        pool |= {"patients": np.arange(60), "cases": np.arange(60).astype(str)}
        (_, once), (_, twice) = (folding.judged(kind, [pool] * n, ("a", "b"), False, 200) for n in (1, 2))
        assert set(once) == set(twice)
        for name, figure in once.items():
            assert twice[name] == pytest.approx(figure), name
        assert twice["accuracy"]["low"] < twice["accuracy"]["high"] and (noise or twice["accuracy"]["low"] < 0.95)


@pytest.mark.parametrize(
    ("folds", "repeats", "words"),
    [(1, 1, "between 2 and 20"), (5, 0, "between 1 and 20"), (20, 1, "20 folds need 20 patients")],
)
def test_folds_that_cannot_be_made_are_refused_in_words(made: Made, folds: int, repeats: int, words: str):
    with pytest.raises(FoldError, match=words):
        folding.members(made.dataset, made.experiment, folds, repeats)
    assert len(RoundStore(made.home).rounds()) == 1


def test_the_parts_of_a_forecast_grow_hold_whole_patients_and_take_as_many_steps(made: Made, monkeypatch):
    monkeypatch.setattr(forecast, "_FEWEST", 5)
    parts = forecast.members(made.dataset, made.experiment, (0.25, 0.5, 1.0), draws=3)
    assert [m.about["share"] for m in parts] == [0.25] * 3 + [0.5] * 3 + [1.0]
    judged = {case.id for case in made.dataset.cases if case.split == "val"}
    of = {}
    for part in parts:
        assert part.sides is not None
        assert {case for case, side in part.sides.items() if side == "test"} == judged
        of[part.about["share"], part.about["draw"]] = {c for c, side in part.sides.items() if side != "test"}
        steps = part.experiment.training.epochs * part.about["cases"]
        whole = parts[-1].experiment.training.epochs * parts[-1].about["cases"]
        assert steps == pytest.approx(whole, rel=0.5)
    assert of[0.25, 0] <= of[0.5, 0] <= of[1.0, 0] and of[0.25, 1] <= of[0.5, 1]
    assert len({frozenset(of[0.5, draw]) for draw in range(3)}) > 1


@pytest.mark.parametrize(
    "schedule",
    [
        Choice(name="step", params={"every_epochs": 3}),
        Choice(name="exponential", params={"decay": 0.8}),
        Choice(name="restarts", params={"first_epochs": 2}),
        Choice(name="cyclic"),
        Choice(name="cosine", params={"warmup_epochs": 2}),
    ],
    ids=lambda schedule: schedule.name,
)
def test_in_every_part_of_a_forecast_the_rate_falls_after_the_same_share_of_the_training(schedule: Choice):
    whole = Experiment(training=Training(epochs=12, schedule=schedule))
    part = forecast._as_long(whole, 4.0)
    assert part.training.epochs == 48
    of_whole, of_part = (
        np.array(rates(e.training.schedule, 1.0, e.training.epochs, steps)) for e, steps in ((whole, 40), (part, 10))
    )
    np.testing.assert_allclose(of_part, of_whole, atol=1e-9)
    assert forecast._as_long(whole, 1.0) == whole
    waits = whole.replace("training.schedule", Choice(name="plateau", params={"wait_epochs": 2}))
    assert forecast._as_long(waits, 4.0).training.schedule.params["wait_epochs"] == 8


def test_where_nothing_can_be_drawn_no_interval_is_told():
    def of(values: list[float]) -> bootstrap.Asked:
        shares = np.array(values)
        return bootstrap.Asked(lambda times: {"auc": times @ shares}, np.arange(len(values)), None, len(values))

    assert forecast.drawn([of([0.5, 0.4])] * 2, "auc", 9).shape == (10, 2)
    with pytest.raises(FoldError, match="of one patient"):
        forecast.drawn([of([0.5])] * 2, "auc", 9)
    with pytest.raises(FoldError, match="auc is not defined"):
        forecast.drawn([of([0.5, 0.4]), of([0.5, np.nan])], "auc", 9)


def test_a_forecast_of_runs_that_learned_tells_a_curve_and_one_of_few_patients_is_refused(made: Made, monkeypatch):
    with pytest.raises(FoldError, match="24 training patients at least"):
        forecast.members(made.dataset, made.experiment)
    monkeypatch.setattr(forecast, "_FEWEST", 5)
    one = forecast.begin(made.home, made.experiment, (0.25, 0.5, 1.0), draws=1, queue=False)
    try:
        for run in one.runs():
            learn(run)
        found = gather(one)
        assert found["verdict"] in ("needs", "enough", "cannot tell") and len(found["points"]) == 3
        assert found["luck"] is None and any("One training of each size" in note for note in found["notes"])
        assert one.result() == json.loads(json.dumps(found)) and not was_opened(made.dataset)
        # What an audit finds later stamps the answer: a scan that the smallest part learned from is judged, too.
        sides, by_id = Parting.of(one.runs()[0].folder).sides, {c.id: k for k, c in enumerate(made.dataset.cases)}  # type: ignore[union-attr]
        pair = sorted(by_id[next(c for c, s in sides.items() if s == side)] for side in ("train", "test"))
        (made.dataset.folder / "copies.json").write_text(json.dumps([pair]))
        stamped = gather(one)
        assert found["leaky"] == "" and stamped["leaky"].startswith("LEAKY: ")
        assert stamped["words"] == f"{stamped['leaky']} {found['words']}"
    finally:
        (made.dataset.folder / "copies.json").unlink(missing_ok=True)
        one.forget()


def test_the_command_line_tells_a_round_that_has_ended_and_refuses_what_is_none(made: Made, capsys, monkeypatch):
    from builder.__main__ import main

    monkeypatch.setenv("SCANLOOM_HOME", str(made.home))
    assert main(["crossvalidate", made.round.id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == made.round.result()
    assert main(["crossvalidate", made.round.id]) == 0
    assert "held-out scans" in capsys.readouterr().out
    assert main(["forecast", made.round.id, "--json"]) == 2
    assert "of the kind folds" in json.loads(capsys.readouterr().out)["error"]
    assert main(["crossvalidate", "nothing", "--json"]) == 2
    assert "neither a file nor a round" in json.loads(capsys.readouterr().out)["error"]
    assert main(["crossvalidate", made.round.id, "--folds", "4", "--set", "training.epochs=2", "--json"]) == 2
    assert "as it was begun: leave out --set, --folds" in json.loads(capsys.readouterr().out)["error"]
    assert main(["crossvalidate", made.round.id, "--nested", "--repeats", "2", "--json"]) == 2
    assert "has no repeats" in json.loads(capsys.readouterr().out)["error"]


def searched(made: Made, home: Path, own: tuple[float, ...]) -> nested.Nested:
    """A nested estimate whose searches have ended: each winner is the run of a fold, `own` its figure in its search."""
    search = Search(dimensions=(Dimension(path="training.optimizer.params.lr", low=1e-4, high=1e-2, log=True),))
    one = nested.begin(home, made.experiment.replace("search", search.model_dump(mode="json")), 3)
    for study, run, value in zip(one.studies(), made.round.runs(), own, strict=True):
        events = (
            {"event": "asked", "trial": 0, "run": run.id, "params": {"training.optimizer.params.lr": 0.001}},
            {"event": "ended", "trial": 0, "status": "done", "values": [value], "best_epoch": 1},
            {"event": "finished", "status": "done"},
        )
        (study.folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return one


def test_a_search_inside_each_fold_sees_its_own_sides_and_its_winner_is_judged_on_what_was_held_out(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(nested.Study, "resume", lambda self: None)
    home = tmp_path / "home"
    shutil.copytree(made.home, home)
    one = searched(made, home, (0.99, 0.98, 0.99))
    for study, run in zip(one.studies(), made.round.runs(), strict=True):
        assert Parting.of(study.folder).sides == Parting.of(run.folder).sides  # type: ignore[union-attr]
    found = nested.gather(one)
    pooled = made.round.result()
    assert pooled is not None and found["metrics"]["auc"]["value"] == pytest.approx(pooled["metrics"]["auc"]["value"])
    assert [row["held_out"] for row in found["members"]] == pytest.approx(pooled["metrics"]["auc"]["folds"])
    # Not what the search was told while it learned (0.99): in other tasks that is another measure of the same name.
    runs = [RunStore(home).run(row["run"]) for row in found["members"]]
    own = [evaluate(run, home, "val", resamples=2)["metrics"]["auc"]["value"] for run in runs]
    assert [row["own"] for row in found["members"]] == pytest.approx(own)
    assert found["optimism"]["value"] == pytest.approx(np.mean(own) - pooled["metrics"]["auc"]["mean"])
    assert one.result() == json.loads(json.dumps(found)) and not was_opened(made.dataset)
    # ---- an answer is that of these winners: with another one it must be put together anew
    record = one.studies()[1].folder / "events.jsonl"
    kept_ = record.read_text()
    other = {"event": "asked", "trial": 1, "run": runs[0].id, "params": {}}, {
        "event": "ended", "trial": 1, "status": "done", "values": [0.995], "best_epoch": 1,
    }  # fmt: skip
    record.write_text(kept_ + "".join(json.dumps(event) + "\n" for event in other))
    assert one.result() is None
    record.write_text(kept_)
    assert one.result() is not None
    record.unlink()
    with pytest.raises(FoldError, match="2 of 3 searches have ended"):
        nested.gather(one)
    # ---- a search that was deleted is told, and no more than the estimate itself is lost with it
    shutil.rmtree(one.studies()[1].folder)
    assert [view.status for view in one.views()] == ["done", "interrupted", "done"]
    assert "was deleted" in one.views()[1].reason and one.result() is not None
    with pytest.raises(StoreError, match="was deleted"):
        one.resume()
    nested.forget(one)
    assert not nested.known(home)


def test_flattery_is_told_where_it_is_shown_and_only_there():
    rows = [{"own": 0.95 + d, "held_out": 0.86 + d} for d in (0.0, 0.01, -0.01, 0.005, 0.0)]
    found = nested.told(rows, {"value": 0.86, "low": 0.8, "high": 0.91}, "auc", best=0.96)
    assert (
        found["over_fitted"] and "over-fitted its validation scans: they flatter its winner by 0.090" in found["words"]
    )
    assert (
        found["words"].startswith("The best trial's own auc is 0.960.") and "0.860 (0.800 to 0.910)" in found["words"]
    )
    rows = [{"own": 0.9 + d, "held_out": 0.9 - d} for d in (0.03, -0.03, 0.01, 0.0)]
    found = nested.told(rows, None, "auc")
    assert not found["over_fitted"] and "is not shown" in found["words"]
    rows = [{"own": 0.2, "held_out": 0.3}, {"own": 0.21, "held_out": 0.32}]
    assert nested.told(rows, None, "rmse", rising=False)["optimism"]["value"] == pytest.approx(0.105)
    assert nested.told([{"own": 1.0, "held_out": None}] * 3, None, "parameters")["optimism"] is None
    assert nested.told([{"own": None, "held_out": 0.8}] * 3, None, "auc")["optimism"] is None


def test_a_trial_of_a_search_inside_a_fold_takes_the_sides_of_its_fold_before_it_learns(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(nested.Study, "resume", lambda self: None)
    home = tmp_path / "home"
    shutil.copytree(made.home / "datasets", home / "datasets")
    study = searched(made, home, (0.9, 0.9, 0.9)).studies()[2]
    facts = json.dumps({"study": study.id, "trial": 0})
    run = RunStore(home).create(
        made.experiment, queue=False, fill=lambda folder: (folder / "trial.json").write_text(facts)
    )
    adopt(run.folder)
    own = Parting.of(run.folder)
    assert own is not None and own == Parting.of(study.folder) and own.words == "search in fold 3 of 3"
    alone = RunStore(home).create(made.experiment, queue=False)
    adopt(alone.folder)
    assert Parting.of(alone.folder) is None
