"""The Training and Network pages with a starter for patches of volumes."""

from __future__ import annotations

from pathlib import Path

import little_run
import pytest
from test_pages_build import at, drafted, pressed
from test_pages_shell import no_supervisor  # noqa: F401 (a fixture)
from test_tumor_diagnosis import TUMOR
from test_volume_patches import STARTER, volumes

from builder.data import Dataset
from builder.execute import home as data_folder
from pages.kit.draft import Draft

pytestmark = pytest.mark.usefixtures("no_supervisor")


@pytest.fixture
def draft(home: Path, tmp_path: Path) -> Draft:
    dataset = little_run.imported(home, volumes(tmp_path / "in"), "Balls")
    return drafted(home, STARTER.replace("data.size_px", 16).replace("data.dataset", dataset.id))


def test_the_training_page_shows_what_patches_of_volumes_have_and_counts_them(draft: Draft) -> None:
    session = at("training", draft)
    shown = {w.key for w in (*session.number_input, *session.slider)}
    assert {"data.num_patches", "data.outlined_share", "data.pixel_mm", "data.slice_mm", "data.num_slices"} <= shown
    told = " ".join(e.proto.body for e in session.get("html"))
    assert f"<dt>Training patches</dt><dd>{6 * _num_cases(draft)}</dd>" in told
    words = " ".join(c.value for c in session.caption)
    assert "kept as it is; patches of 8 slices of 16 x 16 px are cut out of it" in words
    assert not session.button(key="start-training").disabled
    session.number_input(key="data.pixel_mm").set_value(2.0).run()
    assert not session.exception
    assert "brought to 13 x" in " ".join(c.value for c in session.caption)


def _num_cases(draft: Draft) -> int:
    dataset = Dataset.open(data_folder(), draft.experiment.data.dataset)
    return len(TUMOR.cases(dataset, draft.experiment, "train"))


def test_settings_of_patches_are_not_asked_for_single_slices(draft: Draft) -> None:
    draft.put(draft.experiment.replace("data.slices", "each").replace("data.fit", "pad"), "for the test")
    session = at("training", draft)
    shown = {w.key for w in (*session.number_input, *session.slider)}
    assert not shown & {"data.outlined_share", "data.pixel_mm", "data.slice_mm", "data.num_patches", "data.num_slices"}


def test_a_patch_that_does_not_divide_is_marked_at_the_layer_and_mended_by_its_button(draft: Draft) -> None:
    draft.put(draft.experiment.replace("data.num_slices", 7), "for the test")
    session = at("network", draft)
    said = " ".join(e.value for e in (*session.error, *session.markdown))
    assert "levels halve each side" in said
    [key] = [str(b.key) for b in session.button if b.label == "Use patches of 8 slices"][:1]
    pressed(session, key)
    assert Draft.open(draft.id).experiment.data.num_slices == 8
