"""Weights of a network that was taken in: stored by content, named by the document, and what a training begins with."""

from __future__ import annotations

from pathlib import Path

import little_run
import pytest
import torch

from builder import network, onnx_export, pytorch_export, weights
from builder.check import problems
from builder.export import untrained
from builder.foreign_child import parsed
from builder.learner import Learner
from builder.spec import Experiment
from builder.train import train


@pytest.fixture
def came(home: Path, tmp_path: Path) -> tuple[Experiment, dict[str, torch.Tensor]]:
    """A small network that came as ONNX, its weights stored; and those weights."""
    predictor = untrained(little_run.starter().replace("data.size_px", 16), tmp_path)
    with torch.no_grad():
        for tensor in predictor.net.parameters():
            tensor.copy_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(7)) - 0.5)
    onnx_export.write(tmp_path, predictor)
    found = parsed(tmp_path / "model.onnx").stored()
    return found.experiment, {name: torch.tensor(array) for name, array in found.tensors.items()}


def test_a_training_begins_with_exactly_the_weights_that_came(home, tmp_path, came, monkeypatch):
    experiment, tensors = came
    assert weights.stored()[0].sha256 == experiment.weights
    folder = little_run.phantoms.write_cohort(tmp_path / "scans", seed=5, num_images=24, size_px=32)
    dataset = little_run.imported(home, folder, synthetic=True)
    start = experiment.replace("data.dataset", dataset.id).replace("training.epochs", 1)
    run = little_run.RunStore(home).create(start, queue=False)
    seen: dict[str, torch.Tensor] = {}
    assemble = network.assemble_of

    def noticed(*args, **given):
        net = assemble(*args, **given)
        if not seen and not given.get("trained"):
            seen.update({name: tensor.clone() for name, tensor in net.state_dict().items()})
        return net

    monkeypatch.setattr(network, "assemble_of", noticed)
    *_, last = train(run.experiment, little_run.task.find("recognition"), dataset, run.folder, device="cpu")
    assert last.status == "done" and run.experiment.weights == experiment.weights  # type: ignore[attr-defined]
    body = {n: t for n, t in tensors.items() if seen[n].shape == t.shape}  # as many classes came as the scans have, or
    assert len(body) >= len(tensors) - 2  # the class scores begin by themselves
    assert all(torch.equal(seen[name], tensor) for name, tensor in body.items())


def test_an_export_of_an_untrained_network_carries_the_weights_that_came(came, tmp_path):
    experiment, tensors = came
    state = untrained(experiment, tmp_path).net.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())
    begins, start = pytorch_export._start(experiment, 2, {node.id: node.id for node in experiment.network})
    assert begins == "stored" and len(start) == len(state)


def test_layers_that_begin_with_them_learn_at_the_rate_of_the_backbone_also_in_an_export(home, tmp_path, came):
    experiment, _ = came
    first = next(node.id for node in experiment.network if node.name == "conv2d")
    slow = experiment.replace("training.backbone_rate", 0.1).replace(f"network.{first}.params.out_channels", 24)
    folder = little_run.phantoms.write_cohort(tmp_path / "scans", seed=5, num_images=24, size_px=32)
    dataset = little_run.imported(home, folder, synthetic=True)
    slow = slow.replace("data.dataset", dataset.id)
    begun = network.beginning_of(slow, len(dataset.classes)).begun
    prepared, kind = dataset.prepared(slow.data), little_run.task.find("recognition")
    made = Learner(slow, kind, dataset, prepared, tmp_path, torch.device("cpu"))
    owners = {id(p): name.split(".")[1] for name, p in made.model.named_parameters()}
    rates = {owners[id(p)]: group["lr"] for group in made.optimizer.param_groups for p in group["params"]}
    full = max(rates.values())
    assert begun and first not in begun and rates[first] == full
    assert rates == pytest.approx({name: full * (0.1 if name in begun else 1.0) for name in rates})

    text = {}
    for there in (True, False):
        out = tmp_path / f"out-{there}"
        out.mkdir()
        predictor = untrained(slow, home)
        if not there:
            weights.stored()[0].path.unlink()
        pytorch_export.write(out, predictor)
        text[there] = (out / "train.py").read_text()
    assert all(f"    '{name}': (0.1, 1.0, 1.0)," in text[True] for name in begun)
    assert f"'{first}'" not in text[True] and "otherwise" not in text[False]  # gone: it begins at random, as all do


def test_layers_that_fit_no_longer_begin_by_themselves_and_the_check_tells(came):
    experiment, tensors = came
    first = next(node.id for node in experiment.network if node.name == "conv2d")
    other = experiment.replace(f"network.{first}.params.out_channels", 24)
    told = [p for p in problems(other) if p.path == "weights"]
    assert [p.severity for p in told] == ["warning"] and first in told[0].message
    net = network.assemble_of(other, 2, seed=0)
    last = experiment.network[-1].id
    assert torch.equal(net.state_dict()[f"layers.{last}.weight"], tensors[f"layers.{last}.weight"])
    assert [p for p in problems(experiment) if p.path == "weights"] == []


def test_weights_that_are_gone_or_of_another_network_stop_a_start_in_words(came):
    experiment, _ = came
    another = little_run.starter("small-cnn").replace("weights", experiment.weights)
    for wrong, words in (
        (experiment.replace("weights", "0" * 64), "not on this machine"),
        (another, "another network"),
    ):
        told = next(p for p in problems(wrong) if p.path == "weights")
        assert told.severity == "error" and words in told.message and told.fix is not None and told.fix.weights == ""
        with pytest.raises(ValueError, match=words):
            network.assemble_of(wrong, 2)
    file = weights.stored()[0].path
    file.write_bytes(file.read_bytes()[:-4] + b"evil")
    with pytest.raises(ValueError, match="damaged"):
        network.assemble_of(experiment, 2)


def test_a_document_without_stored_weights_keeps_its_digest():
    plain = little_run.starter()
    assert plain.weights == "" and plain.replace("weights", "a" * 64).digest != plain.digest
    older = plain.model_dump(mode="json")
    del older["weights"]
    assert Experiment.checked(older).digest == plain.digest
