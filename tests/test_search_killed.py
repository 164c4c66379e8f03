"""Real processes: whoever is killed in a search, it goes on, and every trial is trained once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from planted import BLUR, RATE, study_of
from service import Service, until

from builder.__main__ import main
from builder.runs import Run
from builder.search.studies import Study, trial_of
from tests.postgres import Postgres, programs
from tests.study_supervisor import COMMAND

EPOCHS = 2


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path / "home", COMMAND)
    yield made
    made.close()


@pytest.fixture
def postgres(monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason="requirements-cluster.txt is not installed")
    found = programs()
    if found is None:
        pytest.skip("no PostgreSQL on this machine; `make test` installs it on Debian, as root")
    made = Postgres(found)
    monkeypatch.setenv("SCANLOOM_STUDIES", made.url)
    yield made
    made.close()


def events_of(study: Study) -> list[dict[str, Any]]:
    """Everything that was told of a search."""
    return [json.loads(line) for line in (study.folder / "events.jsonl").read_text().splitlines()]


def running(study: Study, number: int) -> Run | None:
    """The run of a trial once it is at its third step."""
    found = [trial for trial in study.view().trials if trial.number == number]
    run = Run(study.home, found[0].run) if found else None
    return run if run is not None and run.view().status == "running" and run.view().step >= 3 else None


def test_a_search_outlives_its_workers_its_driver_and_the_service(service: Service):
    service.hold(3)
    study = study_of(service.home, RATE, BLUR, epochs=EPOCHS, strategy="random", num_trials=4)
    service.ready()
    driver = study.resume()
    assert study.resume().id == driver.id, "a second click starts no second driver"

    until(lambda: running(study, 0))  # a worker in the middle of a trial
    service.kill(running(study, 0))
    until(lambda: running(study, 0))
    service.kill(driver)  # the driver: it is started again by itself
    until(lambda: (claim := driver.claim) is not None and claim.alive and claim.attempt == 2)

    service.release()
    until(lambda: sum(trial.ended for trial in study.view().trials) >= 1)
    service.hold(3)
    supervisor, claim = (
        service.supervisor,
        driver.claim,
    )  # everything but the training: no browser, no server, no driver
    service.kill(supervisor)
    if claim is not None and claim.alive:
        service.kill(claim)
    service.release()
    service.executor.ensure()
    study.resume()
    until(lambda: study.view().status == "done")

    view = study.view()
    assert [trial.status for trial in view.trials] == ["done"] * 4 and view.trained == view.wanted == 4
    assert view.trials[0].retried == 1 and sum(trial.retried for trial in view.trials[1:]) == 0
    runs = service.store.runs()
    assert sorted(str(trial_of(run.folder)) for run in runs) == [str((study.id, number)) for number in range(4)]
    assert all(trial.epochs == EPOCHS for trial in view.trials)


def test_a_stopped_search_saves_its_trial_and_one_command_lets_it_go_on(service: Service, monkeypatch, capsys):
    service.hold(3)
    study = study_of(service.home, RATE, epochs=EPOCHS, strategy="random", num_trials=2)
    service.ready()
    study.resume()
    until(lambda: running(study, 0))
    study.stop()
    until(lambda: study.view().status == "stopped")
    run = Run(study.home, study.view().trials[0].run)
    until(lambda: run.view().status == "stopped")
    service.release()
    monkeypatch.setenv("SCANLOOM_HOME", str(service.home))
    assert main(["search", study.id, "--resume", "--trials", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["study"] == study.id and told["status"] == "done" and told["wanted"] == 3
    assert [trial["status"] for trial in told["trials"]] == ["done"] * 3
    assert {trial["run"] for trial in told["trials"]} == {run.id for run in service.store.runs()}
    assert main(["delete", study.id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"study": study.id, "deleted": True} and not service.store.runs()
    assert main(["delete", study.id, "--undo", "--json"]) == 0
    assert study.view().status == "done" and len(service.store.runs()) == 3


def test_four_killed_workers_and_a_database_that_is_cut_off_leave_every_trial_ended_and_none_twice(
    postgres: Postgres, service: Service, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SCANLOOM_SLOTS", "4")
    service.hold(3)
    study = study_of(service.home, RATE, BLUR, epochs=EPOCHS, strategy="random", num_trials=8, parallel=4)
    service.ready()
    study.resume()
    until(lambda: all(running(study, number) for number in range(4)))
    killed = [running(study, number) for number in range(4)]
    for run in killed[:2]:
        service.kill(run)
    postgres.cut()  # with trials at work, and two deaths that nobody has told it of
    for run in killed[2:]:
        service.kill(run)
    until(lambda: all(run is not None and run.view().attempt == 2 for run in killed))
    service.release()
    until(lambda: all(run is not None and run.view().status == "done" for run in killed))
    assert not any(trial.ended for trial in study.view().trials), "an end is told only once the storage knows it"
    postgres.start()
    until(lambda: study.view().status == "done")

    trials = study.view().trials
    assert [trial.number for trial in trials] == list(range(8))
    assert [(trial.status, trial.epochs, trial.retried) for trial in trials] == [
        ("done", EPOCHS, int(number < 4)) for number in range(8)
    ]
    assert len({run.id for run in service.store.runs()} | {trial.run for trial in trials}) == 8, "none is there twice"
    ends = [event["trial"] for event in events_of(study) if event["event"] == "ended"]
    assert sorted(ends) == list(range(8)), "none is counted twice"

    import optuna

    stored = optuna.load_study(study_name=study.id, storage=study.storage_url).trials
    assert [trial.state.name for trial in stored] == ["COMPLETE"] * 8
    assert [tuple(trial.values) for trial in stored] == [trial.values for trial in trials]
