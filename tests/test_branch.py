"""A branch goes on from what its parent has saved, says what it took over, and leaves the parent alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from builder import branch, checkpoint
from builder.branch import Branch
from builder.learner import Learner
from builder.runs import Branched, EpochEnded, Record, Resumed, Run, RunStore, StoreError
from builder.spec import Choice, Dimension, Experiment, Group, Search
from tests.test_train import AUGMENT, TRICKY, Made, after, epochs, experiment, finished, run

CONSTANT = Choice(name="constant")  # with it a run of two epochs is the first half of one of four


@pytest.fixture
def dataset(tmp_path: Path) -> Made:
    return Made(tmp_path / "data")


def taught(home: Path, dataset: Made, chosen: Experiment, **options: Any) -> Run:
    """A run in a store, taught here."""
    made = RunStore(home).create(chosen, queue=False)
    learn(made, dataset, **options)
    return made


def learn(made: Run, dataset: Made, **options: Any) -> list:
    events = run(made.experiment, dataset, made.folder, **options)
    with Record(made.folder / "events.jsonl") as record:
        for event in events:
            record.append(event)
    return events


def branched(home: Path, parent: Run, from_best: bool = False, **changes: Any) -> Run:
    chosen = parent.experiment
    for path, value in changes.items():
        chosen = chosen.replace(path.replace("__", "."), value)
    return branch.branch(RunStore(home), parent, chosen, queue=False, from_best=from_best)


def state(made: Run) -> dict[str, Any]:
    found = checkpoint.load_latest(made.folder, "last")
    assert found is not None
    return found.state


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def files(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


@pytest.mark.parametrize("stop", [None, after(7)], ids=["between epochs", "in the middle of one"])
def test_with_more_epochs_it_ends_as_a_run_that_had_them_from_the_start(home, dataset, stop):
    chosen = experiment(TRICKY, epochs=4, batch_size=12, augment=AUGMENT, schedule=CONSTANT)
    straight = taught(home, dataset, chosen)
    options = {} if stop is None else {"stop": stop}
    parent = taught(home, dataset, chosen.replace("training.epochs", 2), **options)
    before = files(parent.folder)
    child = branched(home, parent, training__epochs=4)
    events = learn(child, dataset)
    assert finished(events).status == "done"
    assert epochs(events)[-1].metrics == epochs(list(straight.events()))[-1].metrics
    for part in ("model", "optimizer", "random"):
        assert same(state(child)[part], state(straight)[part]), part
    assert files(parent.folder) == before, "the parent is as it was"
    (told,) = [event for event in events if isinstance(event, Branched)]
    assert told.parent == parent.id and told.changes == {"training.epochs": [2, 4]}
    assert told.carried.count("anew") == 1 and "memory of past gradients" in told.carried.split("Begins anew")[0]


def test_from_the_best_epoch_it_goes_on_as_its_parent_did_though_newer_states_have_taken_its_place(
    home, dataset, monkeypatch
):
    monkeypatch.setattr(Learner, "rank", lambda self, metrics: (self.place.epoch == 1, []))
    parent = taught(home, dataset, experiment(TRICKY, epochs=checkpoint.KEEP + 2, batch_size=12))
    top = branch.best(parent)
    assert top is not None and top.epoch == 1 and len(branch.saved(parent)) == checkpoint.KEEP
    child = branched(home, parent, from_best=True)
    events = learn(child, dataset)
    assert [event.epoch for event in epochs(events)] == list(range(2, checkpoint.KEEP + 3))
    for part in ("model", "optimizer", "random"):
        assert same(state(child)[part], state(parent)[part]), part
    with pytest.raises(StoreError, match="best state is that of epoch 1 already"):
        branched(home, parent, from_best=True, training__epochs=1)
    monkeypatch.setattr(Learner, "rank", lambda self, metrics: (False, []))
    run(parent.experiment, dataset, parent.folder, resume=False)
    with pytest.raises(StoreError, match="not kept"):
        branched(home, parent, from_best=True)


def test_with_another_rate_the_first_step_is_that_much_longer_from_the_weights_of_the_parent(home, dataset):
    plain = {"optimizer": Choice(name="sgd", params={"lr": 0.01}), "l2": 0.0, "clip_norm": 0.0}
    parent = taught(home, dataset, experiment(epochs=1, schedule=CONSTANT, **plain))
    same_rate = branched(home, parent, training__epochs=2)
    longer = branched(home, parent, training__epochs=2, training__optimizer__params__lr=0.5)
    for child in (same_rate, longer):
        learn(child, dataset, stop=lambda: True)
    start, one, other = (state(made)["model"] for made in (parent, same_rate, longer))
    for name in start:
        assert torch.allclose(other[name] - start[name], 50 * (one[name] - start[name]), rtol=1e-3, atol=1e-5), name
    assert any(not torch.equal(one[name], start[name]) for name in start)


def test_with_another_batch_size_it_begins_the_epoch_again_from_the_weights_of_the_parent(home, dataset):
    chosen = experiment(TRICKY, epochs=3, batch_size=12)
    parent = taught(home, dataset, chosen, stop=after(6))  # two steps into the second epoch
    child = branched(home, parent, training__batch_size=24)
    events = learn(child, dataset, stop=lambda: True)
    (told,) = [event for event in events if isinstance(event, Branched)]
    assert (told.step, told.epoch) == (2, 2) and "begins again" in told.carried
    learn(child, dataset)
    assert [event.epoch for event in child.events() if isinstance(event, EpochEnded)] == [2, 3]


def test_with_another_optimizer_its_memory_begins_anew_and_is_said_to(home, dataset):
    parent = taught(home, dataset, experiment(epochs=1))
    child = branched(home, parent, training__epochs=2, training__optimizer={"name": "sgd", "params": {}})
    events = learn(child, dataset)
    told = next(event for event in events if isinstance(event, Branched))
    assert "memory of past gradients" in told.carried.split("Begins anew")[1]
    assert finished(events).status == "done"


def test_with_a_setting_that_has_it_remember_more_its_memory_begins_anew(home, dataset):
    rmsprop = {"optimizer": Choice(name="rmsprop", params={"lr": 0.001})}
    parent = taught(home, dataset, experiment(epochs=1, **rmsprop))
    for momentum, half in ((0.9, 1), (0.0, 0)):
        child = branched(home, parent, training__epochs=2, training__optimizer__params__momentum=momentum)
        events = learn(child, dataset)
        told = next(event for event in events if isinstance(event, Branched))
        assert "memory of past gradients" in told.carried.split("Begins anew")[half]
        assert finished(events).status == "done"


def moments(made: Run) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """{name of a parameter: what AdamW remembers of it}."""
    found = state(made)
    held = found["optimizer"]["state"]
    return {name: (held[k]["exp_avg"], held[k]["exp_avg_sq"]) for k, name in enumerate(found["remembered"])}


def slow(*nodes: str) -> tuple[Group, ...]:
    return (Group(name="slow", nodes=nodes, lr_factor=0.1),)


def test_with_other_groups_each_parameter_keeps_its_own_memory(home, dataset):
    parent = taught(home, dataset, experiment(epochs=1, groups=slow("conv")))
    children = [
        branched(home, parent, training__epochs=2, training__groups=groups)
        for groups in (slow("conv"), slow("conv_b"), slow("conv", "conv_b", "head"), ())
    ]
    told = [learn(child, dataset, stop=lambda: True) for child in children]
    for events in told:
        (taken,) = [event for event in events if isinstance(event, Branched)]
        assert "memory of past gradients" in taken.carried.split("Begins anew")[0]
    first, *others = map(moments, children)  # a step from the same weights on: the same gradients
    assert first.keys() == {f"layers.{id}.{kind}" for id in ("conv", "conv_b", "head") for kind in ("weight", "bias")}
    for other in others:
        assert same(first, {name: other[name] for name in first})


def test_a_layer_that_stays_as_it_is_needs_no_memory_and_one_that_learns_again_has_none(home, dataset):
    made = taught(home, dataset, experiment(epochs=1))
    for groups, half in (((Group(name="still", nodes=("conv",), lr_factor=0.0),), 0), ((), 1)):
        made = branched(home, made, training__epochs=3, training__groups=groups)
        events = learn(made, dataset, stop=after(2))
        (taken,) = [event for event in events if isinstance(event, Branched)]
        assert "memory of past gradients" in taken.carried.split("Begins anew")[half]


def test_a_memory_without_names_is_taken_over_by_the_same_groups_alone(home, dataset, monkeypatch):
    save = checkpoint.save

    def as_before(folder: Path, name: str, found: dict[str, Any]) -> Path:
        return save(folder, name, {key: value for key, value in found.items() if key != "remembered"})

    monkeypatch.setattr(checkpoint, "save", as_before)
    parent = taught(home, dataset, experiment(epochs=1, groups=slow("conv")))
    monkeypatch.undo()
    for changes, half in (
        ({}, 0),
        ({"training__groups": slow("conv_b")}, 1),
        ({"training__groups": ()}, 1),
        ({"training__backbone_rate": 0.5}, 1),
    ):
        events = learn(branched(home, parent, training__epochs=2, **changes), dataset, stop=lambda: True)
        (taken,) = [event for event in events if isinstance(event, Branched)]
        assert "memory of past gradients" in taken.carried.split("Begins anew")[half], changes


def test_a_branch_that_dies_before_it_saved_anything_begins_at_its_parent_again(home, dataset):
    parent = taught(home, dataset, experiment(epochs=1))
    child = branched(home, parent, training__epochs=2)
    straight = branched(home, parent, training__epochs=2)
    learn(straight, dataset)
    events = learn(child, dataset, attempt=2)
    assert [type(e) for e in events if isinstance(e, Resumed | Branched)] == [Resumed, Branched]
    assert same(state(child)["model"], state(straight)["model"])
    again = run(child.experiment, dataset, child.folder, resume=False)
    assert [e.epoch for e in again if isinstance(e, Branched)] == [2]


def test_it_lives_on_when_the_parent_is_deleted_or_goes_on(home, dataset):
    parent = taught(home, dataset, experiment(epochs=4), stop=after(4))
    child = branched(home, parent, training__epochs=2)
    learn(parent, dataset)
    RunStore(home).delete(parent.id)
    assert finished(learn(child, dataset)).status == "done"


def test_what_a_branch_cannot_change_is_refused_with_its_path(home, dataset):
    parent = taught(home, dataset, experiment(epochs=1))
    with pytest.raises(StoreError, match=r"data\.size_px"):
        branched(home, parent, data__size_px=32, training__epochs=2)
    with pytest.raises(StoreError, match="more than 1"):
        branched(home, parent, training__batch_size=4)
    asked = parent.experiment.replace("search", Search(dimensions=(Dimension(path="training.l2", low=0, high=1),)))
    assert branch.hindrances(parent.experiment, asked) == [] == branch.hindrances(asked, parent.experiment)
    halfway = taught(home, dataset, experiment(epochs=4, batch_size=12), stop=after(7))  # in the middle of the second
    with pytest.raises(StoreError, match="learned for 1 epochs already"):
        branched(home, halfway, training__epochs=1)
    fresh = RunStore(home).create(experiment(), queue=False)
    with pytest.raises(StoreError, match="saved no state"):
        branched(home, fresh, training__epochs=9)
    assert len(RunStore(home).runs()) == 3


def test_cases_that_are_left_out_are_not_learned_from(home, dataset):
    dataset.cases = [SimpleNamespace(id=f"c{k}", split=split) for k, split in enumerate(dataset.splits)]
    parent = taught(home, dataset, experiment(epochs=1, batch_size=16))
    child = branched(home, parent, training__epochs=2, data__exclude=["c3", "c17"])
    learn(child, dataset, stop=lambda: True)
    whole = [e for e in child.events() if isinstance(e, EpochEnded)]
    assert not whole
    learn(child, dataset)
    assert state(child)["place"]["step"] == 6, "46 scans in three steps of 16, twice"
    for wrong in ("c60", "nobody"):  # a validation case, and none
        bad = branched(home, parent, training__epochs=2, data__exclude=[wrong])
        end = finished(learn(bad, dataset))
        assert end.status == "failed" and "no training cases" in end.reason


def test_leaving_nobody_out_changes_no_digest_and_somebody_does():
    plain = Experiment()
    assert plain.replace("data.exclude", []).digest == plain.digest
    other = plain.replace("data.exclude", ["c1", "c2"])
    assert other.digest != plain.digest
    assert plain.diff(other) == {"data.exclude": (None, "c1, c2")}
    assert Experiment.loads(other.dumps()) == other


# ---- the tree -------------------------------------------------------------------------------------------------------


def test_the_tree_shows_branches_below_their_parents_and_orphans_by_themselves(home):
    store = RunStore(home)
    made = [store.create(Experiment(name=str(k)), queue=False) for k in range(5)]

    def came(child: int, parent: str) -> None:
        (made[child].folder / "branch.json").write_text(
            f'{{"parent": "{parent}", "step": 1, "epoch": 1, "changes": {{}}}}'
        )

    came(1, made[0].id)
    came(2, made[1].id)
    came(3, made[0].id)
    came(4, "20200101-000000-000000")
    found = branch.tree(store.runs())
    assert [(limb.run.id, limb.depth) for limb in found] == [
        (made[4].id, 0),
        (made[0].id, 0),
        (made[1].id, 1),
        (made[2].id, 2),
        (made[3].id, 1),
    ]
    assert found[0].branch is not None and found[0].branch.parent == "20200101-000000-000000"
    (made[2].folder / "branch.json").write_text("{")
    assert Branch.of(made[2].folder) is None
