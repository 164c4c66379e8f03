"""A study whose trials are told by hand, so that a page of many trials needs no training."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builder.search.studies import Study, StudyStore
from builder.spec import Choice, Dimension, Experiment, Objective, Search, Training

SPACE = (
    Dimension(path="training.optimizer", choices=("momentum", "adam", "adamw")),
    Dimension(path="training.optimizer.params.lr", low=0.0001, high=0.1, log=True),
    Dimension(path="training.batch_size", low=4, high=32, step=4),
    Dimension(path="training.optimizer.params.momentum", low=0.5, high=0.99),
)


def document(name: str = "told search", num: int = 40, objectives: Sequence[str] = (), epochs: int = 12) -> Experiment:
    """An experiment with three choices unlocked, and one that hangs on the optimizer."""
    search = Search(dimensions=SPACE, num_trials=num, objectives=tuple(Objective(metric=name) for name in objectives))
    training = Training(optimizer=Choice(name="adam"), epochs=epochs, monitor="auc")
    return Experiment(name=name, training=training, search=search)


def told(home: Path, num: int, *, running: int = 0, finished: str = "done", seed: int = 1, **asked: Any) -> Study:
    """A study of `num` trials: some ended early, one failed, one went on after a break, `running` not over yet.

    `finished`: its last word; "" = none, as after a crash of what drives it. `asked`: for `document`.
    """
    experiment = document(**{"num": num, **asked})
    study = StudyStore(home).create(experiment, queue=False)
    several = len(experiment.search.objectives) > 1 if experiment.search else False
    rng, clock = random.Random(seed), 0.0
    with (study.folder / "events.jsonl").open("a") as file:

        def tell(event: str, **facts: Any) -> None:
            file.write(json.dumps({"event": event, "at": 1_790_000_000 + clock, "clock": clock, **facts}) + "\n")

        tell("began", job="none")
        for number in range(num):
            rate, optimizer = 10 ** rng.uniform(-4, -1), rng.choice(["momentum", "adam", "adamw"])
            chosen: dict[str, Any] = {
                "training.optimizer": optimizer,
                "training.optimizer.params.lr": rate,
                "training.batch_size": 4 * rng.randint(1, 8),
            }
            if optimizer == "momentum":
                chosen["training.optimizer.params.momentum"] = rng.uniform(0.5, 0.99)
            parameters = float(rng.randint(1, 40) * 1000)
            tell("asked", trial=number, params=chosen, run="", costs={"parameters": parameters}, requeued_from=None)
            reached = 0.9 - 0.08 * abs(math.log10(rate) + 2.4) - 0.02 * (optimizer != "adam") + rng.gauss(0, 0.01)
            early = 5 < number < num - running and reached < 0.8 and rng.random() < 0.8
            whole = 4 if early else 6 if number >= num - running else experiment.training.epochs
            for epoch in range(1, whole + 1):
                clock += 1.0
                value = reached * (1 - 0.5 * math.exp(-epoch / 3)) + rng.gauss(0, 0.005)
                tell("reported", trial=number, epoch=epoch, value=round(value, 5))
            if number == 9:
                tell("retried", trial=number, reason="Its process was ended (killed).")
            if number >= num - running:
                continue
            status = "failed" if number == 11 else "pruned" if early else "done"
            values = [round(reached, 5), *([parameters] if several else [])] if status == "done" else []
            tell("ended", trial=number, status=status, values=values, best_epoch=whole, epochs=whole, seconds=30.5)
        weights = {"training.optimizer.params.lr": 0.71, "training.optimizer": 0.2, "training.batch_size": 0.09}
        if num >= 20:
            tell("weighed", importance=weights)
        if finished:
            tell("finished", status=finished, reason="")
    return study
