"""What a search costs beside its trainings: `python benchmarks/search.py [--trials 5] [--epochs 60] [--view-only]`.

* overhead: the same documents are trained as trials of a search, one at a time, and as plain runs that wait in the
  queue, turn by turn in one data folder with one supervisor. Between two trainings a search must notice the end, keep
  it, choose the next values (by TPE, from the second trial on) and ask for a run; a queue only begins the next one.
  `ratio` = trials an hour of the search over those of the queue: the time from the first training's start to the last
  one's end, both made of the trainings' own time as measured in the search and of each side's own gaps, so that other
  work on the machine falls on both alike. `ratio_wall` is the same by the clock alone.
* view: what a page needs for a study of 1,000 trials with 20 epochs each: opening it, looking again when nothing or one
  trial has come, every figure of the page, and (in the driver, not in the page) which choices matter.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import setting  # noqa: E402
import start  # noqa: E402

from builder.execute import LocalExecutor  # noqa: E402
from builder.runs import Claim, Finished, Run, RunStore, Started  # noqa: E402
from builder.search.importance import importance  # noqa: E402
from builder.search.studies import StudyFollower, StudyStore  # noqa: E402
from builder.spec import Choice, Data, Dimension, Experiment, Search, Training  # noqa: E402

LR, SMOOTHING = "training.optimizer.params.lr", "training.label_smoothing"
SPACE = (Dimension(path=LR, low=1e-4, high=1e-2, log=True), Dimension(path=SMOOTHING, low=0.0, high=0.3))


def spans(runs: list[Run]) -> tuple[list[float], list[float], float]:
    """(seconds of each training, of each gap between two, from the first start to the last end)."""
    marks = []
    for run in runs:
        events = list(run.events())
        first = next(event.at for event in events if isinstance(event, Started))
        last = next(event.at for event in reversed(events) if isinstance(event, Finished))
        marks.append((first, last))
    marks.sort()
    gaps = [later[0] - earlier[1] for earlier, later in zip(marks, marks[1:], strict=False)]
    return [last - first for first, last in marks], gaps, marks[-1][1] - marks[0][0]


def overhead(num_trials: int, epochs: int, rounds: int) -> dict[str, Any]:
    """The trainings of a search beside the same ones in the queue."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place) / "home"
        store, executor = RunStore(home), LocalExecutor(home)
        data = Data(dataset=start.dataset(home, Path(place) / "pictures"), size_px=28)
        training = Training(epochs=epochs, batch_size=16)
        experiment = Experiment(name="search", data=data, network=start.NETWORK, training=training)
        executor.ensure()
        told = home / "supervisor.json"
        while not (told.exists() and json.loads(told.read_text())["ready"]):
            time.sleep(0.05)
        try:
            warm = store.create(experiment.replace("training.epochs", 1))  # prepares the scans
            _wait([warm])
            trained, ours, theirs, walls, began = [], [], [], [], []
            for seed in range(rounds):
                tpe = Choice(name="tpe", params={"first_random": 1})
                asked = Search(dimensions=SPACE, strategy=tpe, num_trials=num_trials, seed=seed)
                clicked = time.time()
                study = StudyStore(home).create(experiment.model_copy(update={"search": asked}))
                follower = StudyFollower(study)
                while (view := follower.refresh()).active:
                    time.sleep(0.25)
                assert view.status == "done", view.reason
                trials = [store.run(trial.run) for trial in view.trials]
                began.append(min(e.at for run in trials for e in run.events() if isinstance(e, Started)) - clicked)
                busy, gaps, wall = spans(trials)
                plain = [store.create(run.experiment, queue=False) for run in trials]
                for run in plain:
                    executor.submit(run)
                _wait(plain)
                _, gaps_plain, wall_plain = spans(plain)
                trained += busy
                ours += gaps
                theirs += gaps_plain
                walls.append(wall_plain / wall)
        finally:
            claim = Claim.read(home / "supervisor.json")
            if claim is not None and claim.alive:
                os.kill(claim.pid, 15)
                while claim.alive:
                    time.sleep(0.01)
    ratio = (sum(trained) + sum(theirs)) / (sum(trained) + sum(ours))
    return {
        "promise": "trials an hour >= 0.95 of the sum of bare runs",
        "ratio": round(ratio, 3),
        "ratio_wall": round(statistics.median(walls), 3),
        "passed": ratio >= 0.95,
        "training_s": round(statistics.median(trained), 2),
        "gap_in_a_search_s": round(statistics.median(ours), 3),
        "gap_in_the_queue_s": round(statistics.median(theirs), 3),
        "from_the_click_to_the_first_trial_s": round(statistics.median(began), 2),
        "trials": len(trained),
    }


def _wait(runs: list[Run]) -> None:
    while any(run.view().active for run in runs):
        time.sleep(0.1)
    assert all(run.view().status == "done" for run in runs), [run.view().reason for run in runs]


def view_of_a_thousand(num_trials: int = 1000, epochs: int = 20) -> dict[str, Any]:
    """Seconds of the processor, the median of five, for what a page does with a study of many trials."""
    with tempfile.TemporaryDirectory() as place:
        optimizer = Dimension(path="training.optimizer", choices=("momentum", "adamw", "adam"))
        asked = Search(dimensions=(*SPACE, optimizer), num_trials=num_trials)
        experiment = Experiment(network=start.NETWORK, search=asked, training=Training(epochs=epochs))
        study = StudyStore(Path(place)).create(experiment, queue=False)
        record = study.folder / "events.jsonl"
        record.write_bytes(b"".join(_lines(number, epochs) for number in range(num_trials)))
        follower = StudyFollower(study)
        view = follower.refresh()
        assert len(view.trials) == num_trials and view.best is not None

        def one_more() -> None:
            with record.open("ab") as file:
                file.write(_lines(len(view.trials), epochs))
            follower.refresh()

        seconds = {
            "opened": _median(study.view),
            "again, nothing new": _median(follower.refresh),
            "again, a trial more": _median(one_more),
        }
        weighing = _median(lambda: importance(view, [LR]))
    return {
        "promise": "under 0.3 s a refresh with 1,000 trials",
        "seconds": seconds,
        "a look, opened anew_s": round(sum(seconds.values()) - seconds["again, a trial more"], 4),
        "importance, in the driver_s": weighing,
        "passed": seconds["opened"] < 0.3,
    }


def _lines(number: int, epochs: int) -> bytes:
    chance = (number * 7919) % 1000 / 1000
    params = {LR: 10 ** (-4 + 2 * chance), SMOOTHING: 0.3 * ((number * 31) % 97) / 97, "training.optimizer": "adamw"}
    params["training.optimizer"] = ("momentum", "adamw", "adam")[number % 3]
    score = 0.9 - (chance - 0.4) ** 2 - params[SMOOTHING] ** 2  # type: ignore[operator]
    told: list[dict[str, Any]] = [
        {"event": "asked", "trial": number, "params": params, "run": f"{number:x}", "clock": 1.0}
    ]
    told += [
        {"event": "reported", "at": 1.8e9, "clock": 1.0, "trial": number, "epoch": k, "value": score - 1 / (k + 3)}
        for k in range(1, epochs + 1)
    ]
    told.append(
        {"event": "ended", "trial": number, "status": "done", "values": [score], "epochs": epochs, "clock": 2.0}
    )
    return b"".join(json.dumps(line).encode() + b"\n" for line in told)


def _median(what: Callable[[], object]) -> float:
    taken = []
    for _ in range(5):
        began = time.process_time()
        what()
        taken.append(time.process_time() - began)
    return round(statistics.median(taken), 4)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--trials", type=int, default=5)
    asked.add_argument("--epochs", type=int, default=60)
    asked.add_argument("--rounds", type=int, default=2)
    asked.add_argument("--view-only", action="store_true")
    wanted = asked.parse_args()
    found = {"view of 1,000 trials": view_of_a_thousand()}
    if not wanted.view_only:
        found["overhead"] = overhead(wanted.trials, wanted.epochs, wanted.rounds)
    setting.report("search", found)


if __name__ == "__main__":
    main()
