"""Taking networks away and in, on the Runs and the Network page; jobs are ended by hand as the worker would."""

from __future__ import annotations

from pathlib import Path

from test_pages_build import DONE, a_run, at, drafted, pressed, starter, tell
from test_pages_shell import finish, no_supervisor, opened, said  # noqa: F401 (one of them is a fixture)

from builder.runs import RunStore
from builder.spec import Node
from pages.kit import takeaway

PARITY = {
    "cases": 16,
    "source": "scans of the data set",
    "tolerance": 1e-4,
    "difference": {"input": 0.0, "probabilities": 3e-7},
}


def packed(home: Path, digest: str, to: str) -> None:
    """Ends the export that was asked for."""
    job = next(job for job in RunStore(home).jobs() if job.kind == "export")
    (job.folder / "out").mkdir()
    (job.folder / "out" / "it.zip").write_bytes(b"PK")
    finish(home, "export", {"file": "out/it.zip", "to": to, "digest": digest, "parity": PARITY})


def test_a_run_is_packed_in_the_chosen_format_and_shown_with_its_proof(home: Path) -> None:
    run = a_run(home)
    tell(run, last=DONE)
    session = opened("runs")
    session.selectbox(key="export-to").set_value("keras").run()
    assert not session.exception
    pressed(session, "export")
    assert RunStore(home).jobs()[0].payload == {"run": run.id, "to": "keras"}
    packed(home, run.experiment.digest, "keras")
    session.run()
    assert "Proven on 16 scans of the data set" in said(session) and "probabilities 3e-07" in said(session)
    assert "download-export" in {d.key for d in session.get("download_button")}
    session.selectbox(key="export-to").set_value("document").run()
    assert "download-export" not in {d.key for d in session.get("download_button")}


def test_a_layer_that_a_format_cannot_carry_is_named_before_the_click(home: Path) -> None:
    odd = starter().insert(Node(id="odd", name="adaptive_pool", params={"size": 5, "kind": "maximum"}), after="input")
    session = at("network", drafted(home, odd))
    session.selectbox(key="draft-export-to").set_value("onnx").run()
    assert not session.exception
    assert "odd: ONNX cannot carry this layer" in said(session)
    button = session.button(key="draft-export")
    assert button.disabled
    session.selectbox(key="draft-export-to").set_value("keras").run()
    assert not session.button(key="draft-export").disabled


def test_the_network_of_a_draft_is_packed_as_it_is(home: Path) -> None:
    draft = drafted(home, starter())
    session = at("network", draft)
    pressed(session, "draft-export")
    job = RunStore(home).jobs()[0]
    assert job.kind == "export" and job.payload == {
        "experiment": draft.experiment.model_dump(mode="json"),
        "to": "pytorch",
    }
    packed(home, draft.experiment.digest, "pytorch")
    session.run()
    assert "draft-download-export" in {d.key for d in session.get("download_button")}
    draft.put(draft.experiment.replace("training.epochs", 3), "fewer epochs")
    session.run()
    assert "draft-download-export" not in {d.key for d in session.get("download_button")}


def test_an_imported_network_takes_the_place_of_the_old_one_and_its_scans_become_what_it_takes(home: Path) -> None:
    draft = drafted(home, starter().replace("data.dataset", "mine"))
    came = starter("vgg-style").replace("data.size_px", 48).replace("weights", "ab" * 32)
    session = at("network", draft)
    job = RunStore(home).submit_job("network", {"file": "nowhere.onnx"})
    session.query_params[f"job-{takeaway.IN_SLOT}"] = job.id
    session.session_state[f"job-{takeaway.IN_SLOT}"] = job.id
    session.run()
    result = {
        "experiment": came.model_dump(mode="json"),
        "missing": ["odd"],
        "notes": ["odd: there is no layer here."],
        "weights": came.weights,
    }
    finish(home, "network", result)
    session.run()
    assert not session.exception
    now = draft.experiment
    assert now.weights == came.weights and "Training begins with stored weights: abab" in said(session)
    assert now.network == came.network and now.data.size_px == 48 and now.data.dataset == "mine"
    assert now.training == starter().training
    assert "1 of them are not in the catalog" in said(session) and "weights came along" in said(session)
