"""The panel "On your scan" of the network page: what it offers, what it shows, and that it follows the editor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from test_intake import nearby  # noqa: F401 (a fixture)
from test_pages_build import at, buttons, drafted, opened_card, pressed, starter
from test_pages_shell import cats, finish, no_supervisor, said  # noqa: F401 (two of them are fixtures)

from builder import look, stepping
from builder.data import Dataset
from builder.runs import Job, RunStore
from builder.spec import Experiment, Node
from pages.kit import mosaic, step, think
from pages.kit.draft import Draft

FEW = Experiment(
    name="few",
    network=(
        Node(id="conv", name="conv2d", params={"out_channels": 4}),
        Node(id="act", name="relu"),
        Node(id="pool", name="max_pool"),
        Node(id="flat", name="flatten"),
        Node(id="out", name="class_scores"),
    ),
).replace("data.size_px", 16)


def the_job(home: Path) -> Job:
    return next(job for job in RunStore(home).jobs() if job.kind == "look")


def worked_on(home: Path) -> Job:
    """Does the newest look as the worker would."""
    job = the_job(home)
    payload = job.payload
    experiment = Experiment.checked(payload["experiment"])
    dataset = Dataset.open(home, payload["dataset"]) if payload.get("dataset") else None
    scan = dataset.scan(payload["case"]) if dataset else look.sample(payload["sample"])
    subject = look.untrained(experiment, scan, payload["words"], dataset)
    finish(home, "look", json.loads(json.dumps(look.look(subject, job.folder))))
    return job


def looked(home: Path, draft: Draft) -> AppTest:
    session = pressed(at("network", draft), "think-look")
    worked_on(home)
    session.run()
    assert not session.exception, session.exception
    return session


def view(session: AppTest, name: str) -> str:
    next(c for c in session.segmented_control if c.key == "think-view").set_value(name).run()
    assert not session.exception, session.exception
    return said(session)


def images(session: AppTest) -> int:
    return len(session.get("image"))


def test_before_a_look_the_panel_says_what_it_is_for(home: Path) -> None:
    session = at("network", drafted(home, FEW))
    assert "See what every layer makes of one scan" in said(session) and "think-look" in buttons(session)
    assert "think-look" not in buttons(at("network", drafted(home, Experiment(name="empty"))))


def test_without_a_data_set_the_sample_scan_is_looked_at(home: Path) -> None:
    draft = drafted(home, FEW)
    pressed(at("network", draft), "think-look")
    payload = the_job(home).payload
    assert payload["sample"] == "CT" and "run" not in payload and "dataset" not in payload
    assert Experiment.checked(payload["experiment"]) == draft.experiment


def test_a_scan_of_the_data_set_is_looked_at_and_another_one_can_be_had(home: Path, cats: str) -> None:  # noqa: F811
    draft = drafted(home, FEW.replace("data.dataset", cats))
    session = pressed(at("network", draft), "think-look")
    first = the_job(home).payload
    assert first["dataset"] == cats and "cat" in first["words"] + "cat"
    worked_on(home)
    pressed(pressed(session, "think-another"), "think-look")
    assert the_job(home).payload["case"] != first["case"]


def test_the_panel_follows_the_open_layer_through_all_its_views(home: Path) -> None:
    draft = drafted(home, FEW)
    session = looked(home, draft)
    opened_card(session, "conv")
    assert "4 x 16 x 16" in said(session) and images(session) >= 3
    assert "4 filters of 3 x 3 over 1 channel" in view(session, "Filters")
    assert "9 products add up to" in view(session, "Step by step")
    assert "mean" in view(session, "Values")
    opened_card(session, "act")
    assert "of the values stand where the curve is flat" in said(session)
    assert "4 units" in said(session)
    assert "no filters" in view(session, "Filters")
    opened_card(session, "pool")
    assert "The largest of 4 values is" in view(session, "Step by step")
    opened_card(session, "flat")
    assert "This layer is neither" in said(session)
    assert "256 numbers come out" in view(session, "Feature maps")


def test_a_changed_network_says_that_the_look_is_old(home: Path) -> None:
    draft = drafted(home, FEW)
    session = looked(home, draft)
    assert "changed since" not in said(session)
    opened_card(session, "conv")
    session.number_input(key="network.conv.params.out_channels").set_value(6).run()
    assert "The network has changed since" in said(session)


def test_a_layer_that_is_new_says_that_it_was_not_looked_at(home: Path) -> None:
    draft = drafted(home, FEW)
    session = looked(home, draft)
    opened_card(session, "conv")
    session.text_input(key="palette-search").set_value("relu").run()
    pressed(session, "add:relu")
    assert "was not part of this look" in said(session)


def test_a_look_that_failed_says_why(home: Path) -> None:
    draft = drafted(home, FEW)
    session = pressed(at("network", draft), "think-look")
    finish(home, "look", None, "failed", "The scan cannot be read.")
    session.run()
    assert "The scan cannot be read" in " ".join(e.value for e in session.error)


# -- what is said and drawn --------------------------------------------------------------------------------------------


def test_the_sentence_of_a_step_adds_up_before_the_readers_eyes() -> None:
    geometry = stepping.Geometry("convolution", (1, 1), (1, 1), (0, 0), (1, 1), 5, 1)
    x = np.arange(1, 6, dtype=np.float32).reshape(5, 1, 1)
    one = stepping.step(x, geometry, 0, (0, 0), np.ones((1, 5, 1, 1), np.float32), np.array([-2.0]))
    words = step.sentence(one, geometry)
    parts = "+5 (channel 5) +4 (channel 4) +3 (channel 3) +3 (the other 2) -2 (bias) = **13**."
    assert words == f"5 products over 5 channels: {parts}"


def test_a_border_is_told() -> None:
    geometry = stepping.Geometry("maximum", (3, 3), (2, 2), (1, 1), (1, 1))
    one = stepping.step(np.full((1, 4, 4), -3.0, np.float32), geometry, 0, (0, 0))
    assert (
        step.sentence(one, geometry)
        == "The largest of 4 values is **-3**. 5 places of the window lie beyond the border."
    )


def test_colours_keep_zero_in_the_middle_and_stay_within_their_ends() -> None:
    values = np.array([[-1.0, 0.0, 4.0]])
    low, high, signed = mosaic.scale_of(values)
    assert (low, high, signed) == (-4.0, 4.0, True)
    drawn = mosaic.coloured(values, low, high, signed)
    assert drawn[0, 1].tolist() == [246, 246, 248]
    assert mosaic.scale_of(np.zeros((2, 2))) == (0.0, 1.0, False)
    assert mosaic.coloured(np.array([np.nan, 9.0]), 0, 1, False).tolist()[1] == [252, 255, 190]


@pytest.mark.parametrize(("num", "side"), [(1, 64), (7, 5), (64, 190), (16, 1)])
def test_a_grid_holds_every_picture_and_is_wider_than_high(num: int, side: int) -> None:
    sheet = mosaic.grid([np.full((side, side, 3), 9, np.uint8)] * num)
    tiles = (sheet[..., 3] > 0).sum()
    times = mosaic.largest(side, side, 72)
    step_px = max(1, round(side / 180)) if times == 1 else 1
    assert tiles == num * (len(range(0, side, step_px)) * times) ** 2
    assert num < 3 or sheet.shape[1] >= sheet.shape[0]


def test_dead_units_are_only_told_where_enough_was_seen() -> None:
    activation = {"curve": {}, "flat": 0.5, "zero": 0.5, "units": 8, "dead": 4, "num_scans": 1, "histogram": {}}
    activation["curve"] = {"x": [0], "y": [0]}
    told = {"activation": activation, "low": 0, "high": 1, "mean": 0.5, "std": 1, "layout": "vector"}
    assert "cannot be said from one scan" in think.value_words(told, 1)[1]
    assert "4 of 8 units are dead" in think.value_words(told, 8)[1]
    assert "4 of 8 units are dead" in think.value_words({**told, "layout": "maps"}, 1)[1]


def test_a_memory_that_fades_is_told() -> None:
    assert "vanishing gradient" in think.memory_words([0.001, 0.1, 1.0], 0)[1]
    assert "at most 2 steps" in think.memory_words([0.0, 0.1, 1.0], 2)[1]
    assert len(think.memory_words([0.5, 0.7, 1.0], 0)) == 1 and "does not change" in think.memory_words([0.0], 0)[0]


def test_a_starter_offers_the_panel_too(home: Path) -> None:
    assert "think-look" in buttons(at("network", drafted(home, starter())))
