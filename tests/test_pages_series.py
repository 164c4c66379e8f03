"""The pages where the network sees several slices: the preparation, the network's scan, the answer, the demo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_files import texture
from PIL import Image
from test_pages_build import (  # noqa: F401  fixtures of those pages
    DONE,
    FINDING,
    a_run,
    answered,
    at,
    card,
    cats,
    drafted,
    nearby,
    no_supervisor,
    pressed,
    said,
    starter,
    tell,
)
from test_pages_shell import opened, parameter, title_of

from builder.intake import Source, import_scans
from builder.runs import RunStore
from builder.task import find
from pages.kit.draft import Draft
from tests.made_files import drained


@pytest.fixture
def series(home: Path, tmp_path: Path) -> str:
    """The id of a data set of 24 synthetic series of 6 slices."""
    for n in range(24):
        first, *rest = [Image.fromarray(texture(10 * n + k, (20, 24))) for k in range(6)]
        path = tmp_path / "series" / ("up" if n % 2 else "down") / f"case-{n:02d}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        first.save(path, save_all=True, append_images=rest)
    source = Source("classes", tmp_path / "series", synthetic=True)
    return str(drained(import_scans(source, find("recognition").demo_name("series"), home)).dataset)


def over_slices(dataset: str, name: str = "cnn-bigru"):
    return starter(name).replace("data.dataset", dataset).replace("data.num_slices", 6)


def test_the_settings_of_slices_appear_where_a_series_is_chosen_and_its_slices_can_be_leafed_through(home, series):
    draft = drafted(home, starter().replace("data.dataset", series))
    session = at("training", draft)
    assert "example-slice" not in {s.key for s in session.slider} and "prepared to 64 x 64 px" in said(session)
    session.selectbox(key="data.slices").set_value("series").run()
    assert not session.exception and draft.experiment.data.slices == "series"
    assert {"data.num_slices", "data.slice_choice"} <= {
        w.key for kind in ("number_input", "slider", "button_group", "selectbox") for w in session.get(kind)
    }
    assert "prepared to 16 slices of 64 x 64 px" in said(session)
    assert "Some scans are of only 6 slices, but the network sees 16" in said(session)
    session.number_input(key="data.num_slices").set_value(3).run()
    assert draft.experiment.data.num_slices == 3 and not session.exception
    assert session.slider(key="example-slice").value == 2 and "Slice 4 of the scan" in said(session)
    session.slider(key="example-slice").set_value(3).run()
    assert "Slice 5 of the scan" in said(session) and "prepared to 3 slices of" in said(session)


def test_a_series_of_pictures_is_refused_with_a_button_that_mends_it(home, cats):  # noqa: F811
    draft = drafted(home, over_slices(cats))
    session = at("training", draft)
    assert "a series needs scans of several slices" in said(session)
    assert session.button(key="start-training").disabled
    pressed(session, "repair:data.slices:0")
    assert draft.experiment.data.slices == "middle"


def test_the_scan_of_the_network_says_how_many_slices_it_has(home, series):
    session = at("network", drafted(home, over_slices(series)))
    assert "6 slices of 48 x 48 px" in card(session, "input") and "6 x 1 x 48 x 48" in card(session, "input")
    assert "6 x 64" in card(session, "global_pool_1"), "a vector for each slice"


def test_the_demo_of_series_is_made_once_and_opened_with_its_starter(home, series):
    session = opened()
    pressed(session, "try-recognition-series")
    made = Draft.open(parameter(session, "draft"), at_home=home)
    assert title_of(session) == "Training" and made.experiment.data.dataset == series
    assert made.experiment.name == "Demo: cnn-bigru" and made.experiment.data.slices == "series"


def test_without_a_demo_of_series_a_job_makes_one_and_pictures_do_not_pass_for_it(home, cats):  # noqa: F811
    session = opened()
    pressed(session, "try-recognition-series")
    (job,) = RunStore(home).jobs()
    assert job.payload == {"task": "recognition", "seed": 0, "kind": "series"}


def test_a_starter_over_slices_begins_on_scans_that_have_some(home, series, cats):  # noqa: F811
    session = opened()
    session.selectbox(key="starter").set_value("cnn-bigru").run()
    pressed(session, "open-starter")
    assert Draft.open(parameter(session, "draft"), at_home=home).experiment.data.dataset == series


def test_the_answer_about_a_series_opens_at_the_slice_that_tells_most_and_every_slice_can_be_seen(home, series):
    run = a_run(home, "clever", data__dataset=series)
    tell(run, last=DONE)
    (run.folder / "best.safetensors").write_bytes(b"")
    session = opened("test", run=run.id)
    pressed(session, "take-test-scan")
    job = next(job for job in RunStore(home).jobs() if job.kind == "predict")
    names = []
    for n in range(3):
        for what in ("input", "heat"):
            Image.fromarray(np.full((16, 16), 60 * n, np.uint8)).save(job.folder / f"{what}-{n:03d}.png")
        names.append(f"{n:03d}.png")
    told = {
        "slices": {"of": 6, "seen": [2, 4, 0], "telling": 1},
        "top": "up",
        "probabilities": {"up": 0.9, "down": 0.1},
    }
    answered(home, {**FINDING, **told}, images=[f"input-{n}" for n in names], heatmaps=[f"heat-{n}" for n in names])
    session.run()
    assert not session.exception and "As the network saw it: slice 4 of 6" in said(session)
    slider = session.slider(key=f"seen-slice-{job.id}")
    assert slider.value == 2 and (slider.min, slider.max) == (1, 3)
    slider.set_value(1).run()
    assert "As the network saw it: slice 2 of 6" in said(session)
    session.slider(key=f"seen-slice-{job.id}").set_value(3).run()
    assert "black, the scan has no slice here" in said(session) and not session.exception
    assert "every one is covered there" in said(session)
