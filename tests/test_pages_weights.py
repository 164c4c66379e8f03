"""The form of a backbone: where its weights come from, what fetching would contact, its stages opened."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from test_pages_build import at, drafted, opened_card, pressed
from test_pages_shell import finish, no_supervisor, said  # noqa: F401 (one of them is a fixture)

from builder import weights
from builder.runs import RunStore
from builder.spec import Data, Experiment, Node
from builder.weights import Stored
from pages.kit.draft import Draft

MODEL = "test_resnet"


@pytest.fixture(autouse=True)
def alone(no_supervisor: None) -> None:  # noqa: F811
    """Jobs wait in the queue: nobody works on them."""


def backbone(home: Path, **params) -> Draft:
    layers = (
        Node(id="b", name="timm_backbone", params={"model": MODEL, **params}),
        Node(id="p", name="global_pool"),
        Node(id="s", name="class_scores"),
    )
    return drafted(home, Experiment(data=Data(size_px=32), network=layers))


def taken_in(tmp_path: Path) -> Stored:
    torch.save(timm.create_model(MODEL).state_dict(), tmp_path / "mine.pth")
    return weights.take_in(tmp_path / "mine.pth")


def test_fetching_says_whom_it_would_ask_and_asks_only_when_pressed(home: Path, monkeypatch) -> None:
    monkeypatch.setattr(weights, "fetch", lambda model: pytest.fail("a page fetches nothing"))
    draft = backbone(home, weights="download")
    session = opened_card(at("network", draft), "b")
    there = weights.source(MODEL)
    words = said(session)
    assert there.host in words.replace("\\", "") and "about" in words and "nothing is fetched by itself" in words
    assert not list((home / "jobs").glob("*")) if (home / "jobs").exists() else True
    pressed(session, "fetch-b")
    (job,) = [RunStore(home).job(path.name) for path in (home / "jobs").iterdir()]
    assert job.kind == "weights" and job.payload == {"fetch": MODEL}


def test_fetched_weights_are_recorded_by_their_digest_when_used(home: Path, tmp_path: Path) -> None:
    torch.save(timm.create_model(MODEL).state_dict(), tmp_path / "theirs.pth")
    one = weights.take_in(tmp_path / "theirs.pth", MODEL)
    draft = backbone(home, weights="download")
    session = pressed(opened_card(at("network", draft), "b"), "use-b")
    assert not session.exception
    assert draft.experiment.at("network.b").params == {"model": MODEL, "weights": "file", "file": one.sha256}


def test_a_file_on_this_machine_is_chosen_by_its_content_and_told_how_well_it_fits(home: Path, tmp_path: Path) -> None:
    one = taken_in(tmp_path)
    draft = backbone(home, weights="file")
    session = opened_card(at("network", draft), "b")
    assert "No file of weights is chosen" in said(session)
    session.selectbox(key="file-of:b").set_value(one.sha256).run()
    assert not session.exception and draft.experiment.at("network.b.params.file") == one.sha256
    total = one.tensors - 2
    assert f"{total} of the {total} weights of {MODEL} are in it" in said(session).replace("\\", "")


def test_a_file_that_came_in_is_written_into_the_layer_it_was_meant_for(home: Path, tmp_path: Path) -> None:
    from dataclasses import asdict

    one = taken_in(tmp_path)
    draft = backbone(home, weights="file")
    job = RunStore(home).submit_job("weights", {"file": "gone"})
    finish(home, "weights", asdict(one))
    session = at("network", draft, **{"job-weights": job.id, "weights-for": f"{draft.id}.b"})
    assert not session.exception
    found = draft.experiment.at("network.b").params
    assert found["file"] == one.sha256 and found["weights"] == "file"


def test_a_backbone_is_opened_into_its_stages_and_taken_back_whole(home: Path) -> None:
    draft = backbone(home, frozen_stages=1)
    session = opened_card(at("network", draft), "b")
    pressed(session, "open-b")
    assert [n.id for n in draft.experiment.network][:5] == [f"b_stage{k}" for k in range(1, 6)]
    draft.undo()
    assert [n.id for n in draft.experiment.network] == ["b", "p", "s"]


def test_a_model_that_cannot_be_parted_is_told_in_words(home: Path) -> None:
    draft = backbone(home, model="test_vit")
    session = pressed(opened_card(at("network", draft), "b"), "open-b")
    assert "cannot be parted into stages" in said(session)
    assert [n.id for n in draft.experiment.network] == ["b", "p", "s"]


def test_the_stages_of_a_backbone_can_be_chosen_as_what_feeds_a_decoder(home: Path) -> None:
    layers = (
        Node(id="b", name="timm_backbone", params={"model": MODEL, "output": "stages"}),
        Node(id="d", name="unet_decoder", inputs=("b:2", "b:3")),
    )
    draft = drafted(home, Experiment(data=Data(size_px=32), network=layers))
    session = opened_card(at("network", draft), "d")
    chosen = session.multiselect(key="wires:d")
    assert chosen.value == ["b:2", "b:3"] and "b, output 5" in chosen.options
    chosen.set_value(["b:1", "b:2", "b:3"]).run()
    assert draft.experiment.at("network.d.inputs") == ("b:1", "b:2", "b:3")


def test_a_file_goes_to_the_draft_it_was_meant_for_whichever_is_open(home: Path, tmp_path: Path) -> None:
    from dataclasses import asdict

    one = taken_in(tmp_path)
    meant, other = backbone(home, weights="file"), backbone(home, weights="file")
    job = RunStore(home).submit_job("weights", {"file": "gone"})
    finish(home, "weights", asdict(one))
    session = at("network", other, **{"job-weights": job.id, "weights-for": f"{meant.id}.b"})
    assert not session.exception and meant.experiment.at("network.b").params["file"] == one.sha256
    assert "file" not in other.experiment.at("network.b").params


def test_a_form_says_it_where_the_weights_are_damaged(home: Path, tmp_path: Path) -> None:
    one = taken_in(tmp_path)
    one.path.write_bytes(b"x" * 100)
    session = opened_card(at("network", backbone(home, weights="file", file=one.sha256)), "b")
    assert not session.exception and "damaged on the disk" in said(session)


def test_weights_chosen_for_a_layer_that_was_deleted_meanwhile_end_in_a_sentence(home: Path, tmp_path: Path) -> None:
    one = taken_in(tmp_path)
    draft = backbone(home, weights="file")
    session = opened_card(at("network", draft), "b")
    draft.apply(lambda now: now.remove("b"), "delete it elsewhere")
    session.selectbox(key="file-of:b").set_value(one.sha256).run()
    assert not session.exception and session.toast
