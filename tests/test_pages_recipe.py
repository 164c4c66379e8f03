"""The Training page's recipe and the gap on the Runs page, without a browser."""

from pathlib import Path

from test_intake import nearby  # noqa: F401 (a fixture)
from test_pages_build import at, pressed, ready
from test_pages_shell import cats, said  # noqa: F401 (a fixture)

from builder import network, weights
from builder.runs import EpochEnded, Record, RunStore, Started
from builder.spec import Choice


def test_dropout_everywhere_is_one_slider_that_edits_the_network_and_can_be_undone(home: Path, cats: str) -> None:  # noqa: F811
    draft = ready(home, cats)
    before = draft.experiment
    session = at("training", draft)
    session.slider(key="drop-everywhere").set_value(0.4).run()
    assert not session.exception
    drops = [n for n in draft.experiment.network if "dropout" in n.name]
    assert drops and all(n.params["p"] == 0.4 for n in drops)
    draft.undo()
    assert draft.experiment == before


def test_layers_get_a_rate_of_their_own_and_lose_it_again(home: Path, cats: str) -> None:  # noqa: F811
    draft = ready(home, cats)
    session = at("training", draft)
    pressed(session, "group-head")
    (group,) = draft.experiment.training.groups
    assert group.nodes == (draft.experiment.network[-1].id,) and group.lr_factor == 10
    session = at("training", draft)
    session.number_input(key=f"training.groups.{group.name}.lr_factor").set_value(3.0).run()
    assert draft.experiment.training.groups[0].lr_factor == 3
    session.multiselect(key=f"training.groups.{group.name}.nodes").set_value([draft.experiment.network[0].id]).run()
    assert draft.experiment.training.groups[0].nodes == (draft.experiment.network[0].id,)
    pressed(session, f"group-remove-{group.name}")
    assert draft.experiment.training.groups == ()


def test_the_rate_of_the_backbone_names_the_layers_that_begin_with_stored_weights(home: Path, cats: str) -> None:  # noqa: F811
    draft = ready(home, cats)
    assert "it changes none" in said(at("training", draft))
    net = network.assemble_of(draft.experiment, 2)
    stored = weights.keep({name: tensor.numpy() for name, tensor in net.state_dict().items()})
    draft.replace("weights", stored.sha256)
    begun = network.beginning_of(draft.experiment, 2).begun
    assert f"It is for {', '.join(begun)}." in said(at("training", draft)).replace("\\", "")
    weights.stored()[0].path.unlink()
    assert "it changes none" in said(at("training", draft))


def test_the_choice_of_balance_says_what_the_counts_mean(home: Path, cats: str) -> None:  # noqa: F811
    draft = ready(home, cats)
    draft.replace("training.balance", "sampler")
    assert "every class comes about" in said(at("training", draft))


def test_what_is_said_of_balance_knows_the_loss_and_several_labels_a_scan(home: Path) -> None:
    from pages.training import balance_words

    counts = {"cat": 10, "dog": 50}
    assert "5.0 times one on dog" in balance_words(counts, "weights", "usual", False)[1]
    assert "Nothing is done" in balance_words(counts, "none", "usual", False)[1]
    assert "Nothing is done" not in " ".join(balance_words(counts, "none", "focal", False))
    # Of 100 scans with several labels a missed cat costs (100 - 10) / 10 = 9, a missed dog 1: no 5.0 times.
    assert "5.0 times one" not in " ".join(balance_words(counts, "weights", "usual", True))
    assert "in an epoch of 60" not in " ".join(balance_words(counts, "sampler", "usual", True))


def test_optimizers_walk_when_they_are_asked_to(home: Path, cats: str) -> None:  # noqa: F811
    draft = ready(home, cats)
    draft.replace("training.optimizer", Choice(name="lion"))
    session = at("training", draft)
    assert "Lowest after" not in said(session)
    session.toggle(key="toy-shown").set_value(True).run()
    assert not session.exception and "Lowest after 120 steps" in said(session) and "Lion" in said(session)


def test_a_run_that_learns_by_heart_is_told_so_with_cures_that_open_a_draft(
    home: Path,
    cats: str,  # noqa: F811
) -> None:
    draft = ready(home, cats)
    run = RunStore(home).create(draft.experiment)
    record = Record(run.folder / "events.jsonl")
    record.append(Started(attempt=1, device="cpu", pid=1))
    for epoch, (train, val) in enumerate([(0.7, 0.7), (0.5, 0.5), (0.4, 0.52), (0.3, 0.56), (0.2, 0.6)], 1):
        metrics = {"train/loss": train, "train_eval/loss": train, "val/loss": val}
        record.append(EpochEnded(epoch, 4 * epoch, metrics, 1.0))
    session = at("runs", draft, run=run.id)
    assert "Learning by heart since epoch 2" in said(session)
    pressed(session, "gap-cure-0")
    assert not session.exception
