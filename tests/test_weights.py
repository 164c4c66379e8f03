"""Files of pretrained weights: taken in safely, known by their content, told in words where they do not fit."""

import hashlib
import os
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from builder import check, network, weights
from builder.network import assemble
from builder.parts.layers import LAYERS
from builder.runs import RunStore
from builder.spec import Data, Experiment, Node
from builder.surgery import expand
from builder.weights import WeightsError

MODEL = "test_resnet"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may ask the internet in these tests: any try to do so is a failure with words."""
    import socket

    real = socket.socket.connect

    def connect(self, address):
        assert not isinstance(address, tuple) or address[0] == "127.0.0.1", f"asked {address}"
        return real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture
def trained() -> dict[str, torch.Tensor]:
    """Weights of a model with a classifier, as a training script has them: no batch norm is still at its beginning."""
    torch.manual_seed(7)
    net = timm.create_model(MODEL)
    return {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in net.state_dict().items()}


def backbone(**params) -> tuple[Node, ...]:
    return (Node(id="b", name="timm_backbone", params={"model": MODEL, **params}),)


def test_a_safetensors_file_is_known_by_what_sha256sum_says_of_it(trained, tmp_path: Path, home: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(trained, file)
    one = weights.take_in(file)
    assert one.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert one.path == home / "weights" / f"{one.sha256}.safetensors" and one.path.read_bytes() == file.read_bytes()
    assert one.tensors == len(trained) and weights.stored() == [one]
    assert not any("mine" in path.name or "mine" in path.read_text(errors="replace") for path in home.rglob("*.json"))


@pytest.mark.parametrize("wrapped", ["plain", "state_dict", "module", "ema"])
@pytest.mark.parametrize("old", [False, True], ids=["zip", "old pickle"])
def test_a_pth_file_gives_the_same_tensors_however_a_script_wrapped_them(trained, tmp_path, wrapped, old) -> None:
    content = {
        "plain": trained,
        "state_dict": {"epoch": 3, "state_dict": trained, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
        "module": {"model": {f"module.{name}": value for name, value in trained.items()}},
        "ema": {"args": {"lr": 0.1}, "state_dict_ema": trained},
    }[wrapped]
    file = tmp_path / "theirs.pth"
    torch.save(content, file, _use_new_zipfile_serialization=not old)
    one = weights.take_in(file)
    assert weights.fits(MODEL, one.sha256)[0] == weights.fits(MODEL, one.sha256)[1] == len(trained) - 2
    found = load_file(one.path)
    prefix = "module." if wrapped == "module" else ""
    assert found.keys() == {prefix + name for name in trained}
    assert all(torch.equal(found[prefix + name], value) for name, value in trained.items())


class Evil:
    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


@pytest.mark.usefixtures("a_fresh_child")
@pytest.mark.parametrize("old", [False, True], ids=["zip", "old pickle"])
def test_a_file_that_would_run_code_is_not_opened(tmp_path: Path, old: bool) -> None:
    file, canary = tmp_path / "evil.pth", tmp_path / "ran"
    torch.save({"a": torch.ones(2), "b": Evil(canary)}, file, _use_new_zipfile_serialization=not old)
    with pytest.raises(WeightsError, match="it was not opened, because such a file could run code"):
        weights.take_in(file)
    assert not canary.exists() and weights.stored() == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no such file, or it is empty"),
        (b"hello", "something other than plain tensors"),
        (b"\x10\0\0\0\0\0\0\0{" + b"x" * 40, "header does not fit its content"),
    ],
)
def test_what_is_no_file_of_weights_is_refused_in_words(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "file.safetensors"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        weights.take_in(file)


@pytest.mark.usefixtures("a_fresh_child")
def test_a_tensor_that_claims_more_than_it_holds_cannot_take_the_memory(tmp_path: Path) -> None:
    file = tmp_path / "bomb.pth"
    torch.save({"a": torch.zeros(1).expand(1 << 36)}, file)
    with pytest.raises(WeightsError, match="too much memory"):
        weights.take_in(file)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_layer_begins_with_the_weights_of_its_file(trained, tmp_path: Path, channels: int) -> None:
    file = tmp_path / "mine.safetensors"
    save_file({f"net.{name}": value for name, value in trained.items()}, file)
    sha256 = weights.take_in(file).sha256
    net = assemble(backbone(weights="file", file=sha256), (channels, 32, 32), 2, seed=0)
    own = {name.removeprefix("layers.b.net."): value for name, value in net.state_dict().items()}
    rgb = trained["conv1.0.weight" if "conv1.0.weight" in trained else "conv1.weight"]
    stem = own["conv1.0.weight" if "conv1.0.weight" in own else "conv1.weight"]
    wanted = rgb.sum(1, keepdim=True) if channels == 1 else torch.cat([rgb, rgb], 1)[:, :channels] * (3 / channels)
    torch.testing.assert_close(stem, wanted)
    assert all(torch.equal(v, trained[k]) for k, v in own.items() if v.shape == trained[k].shape and v is not stem)


def test_a_grey_network_sees_what_the_colour_one_sees_of_the_same_grey(trained, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(trained, file)
    layers = backbone(weights="file", file=weights.take_in(file).sha256)
    grey, rgb = (assemble(layers, (c, 32, 32), 2).eval() for c in (1, 3))
    scan = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(grey(scan), rgb(scan.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_a_file_of_another_network_is_told_with_how_many_of_its_weights_fit(trained, tmp_path: Path) -> None:
    file = tmp_path / "half.safetensors"
    half = {name: value for name, value in trained.items() if not name.startswith("layer4")}
    save_file(half, file)
    sha256 = weights.take_in(file).sha256
    total = len(trained) - 2
    there = len(half) - 2
    experiment = Experiment(data=Data(size_px=32), network=backbone(weights="file", file=sha256))
    (problem,) = [p for p in check.problems(experiment) if p.path == "network.b.params.file"]
    assert problem.message == f"The file does not fit {MODEL}: {there} of its {total} weights are in it."
    assert problem.fix is not None and not [p for p in check.problems(problem.fix) if p.path.startswith("network.b.p")]
    with pytest.raises(WeightsError, match=f"{there} of its {total}"):
        assemble(experiment.network, (1, 32, 32), 2)


def test_weights_that_are_not_here_stop_a_start_but_neither_a_plan_nor_an_opened_run(home: Path) -> None:
    layers = backbone(weights="file", file="a" * 64)
    experiment = Experiment(network=layers)
    assert network.plan_of(experiment, 2)["b"].message == ""
    assert assemble(layers, (1, 32, 32), 2, trained=True)
    assert any("aaaaaaaaaaaa are not on this machine" in p.message for p in check.problems(experiment))
    with pytest.raises(WeightsError, match="not on this machine"):
        assemble(layers, (1, 32, 32), 2)


def test_weights_that_changed_on_the_disk_are_not_used(trained, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(trained, file)
    one = weights.take_in(file)
    content = bytearray(one.path.read_bytes())
    content[-1] ^= 1
    one.path.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged on the disk"):
        assemble(backbone(weights="file", file=one.sha256), (1, 32, 32), 2)


def test_damaged_weights_are_a_problem_in_words(trained, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(trained, file)
    one = weights.take_in(file)
    one.path.write_bytes(one.path.read_bytes()[:50])
    weights.fits.cache_clear()
    layers = backbone(weights="file", file=one.sha256)
    (problem,) = [p for p in check.problems(Experiment(network=layers)) if p.path == "network.b.params.file"]
    assert "damaged on the disk. Take the file in again." in problem.message and problem.repair == "Begin at random"


@pytest.mark.parametrize("model", ["resnet_nonsense", "resnet18.nonsense", "hf-hub:somebody/something"])
def test_a_model_that_timm_has_not_is_told_in_words_and_sought_nowhere(trained, tmp_path: Path, model: str) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(trained, file)
    sha256 = weights.take_in(file).sha256
    for ask in (weights.source, weights.fetch, lambda model: weights.fits(model, sha256)):
        with pytest.raises(WeightsError, match=f"timm has no model {model!r}"):
            ask(model)


def test_an_installed_package_is_a_problem_for_any_model_but_its_own() -> None:
    problems = {
        model: [
            p
            for p in check.problems(Experiment(network=backbone(model=model, weights="installed package")))
            if p.path == "network.b.params.weights"
        ]
        for model in (MODEL, "tf_efficientnet_lite0")
    }
    (problem,) = problems[MODEL]
    assert problem.severity == "error" and problem.repair == "Begin at random" and problem.fix is not None
    assert problem.fix.at("network.b.params.weights") == "none" and problems["tf_efficientnet_lite0"] == []


def test_the_same_bytes_belong_to_every_model_they_were_fetched_for(trained, tmp_path: Path) -> None:
    file = tmp_path / "theirs.safetensors"
    save_file(trained, file)
    for model in ("resnet18", "resnet34", ""):
        one = weights.take_in(file, model)
    assert one.models == ("resnet18", "resnet34") and weights.stored() == [one]
    assert weights.fetched("resnet18") == weights.fetched("resnet34") == one


# -- timm's own: only where a person asks -----------------------------------------------------------------------------


def test_a_document_that_says_download_asks_nobody_and_says_what_to_do() -> None:
    layers = backbone(weights="download")
    experiment = Experiment(data=Data(size_px=32), network=layers)
    assert network.plan_of(experiment, 2)["b"].message == ""
    assert assemble(layers, (1, 32, 32), 2, trained=True)
    (problem,) = [p for p in check.problems(experiment) if p.path == "network.b.params.weights"]
    assert f"weights --fetch {MODEL}" in problem.message
    with pytest.raises(WeightsError, match="nothing is fetched by itself"):
        assemble(layers, (1, 32, 32), 2)


def test_fetched_weights_that_a_document_names_by_their_model_alone_can_be_named_by_their_content(
    trained, tmp_path: Path, home: Path
) -> None:
    file = tmp_path / "theirs.safetensors"
    save_file(trained, file)
    one = weights.take_in(file, MODEL)
    experiment = Experiment(data=Data(size_px=32), network=backbone(weights="download"))
    (problem,) = [p for p in check.problems(experiment) if p.path == "network.b.params.weights"]
    assert problem.severity == "warning" and one.sha256[:12] in problem.message
    assert problem.fix is not None
    named = problem.fix.network[0].params
    assert (named["weights"], named["file"]) == ("file", one.sha256)
    assert [p for p in check.problems(problem.fix) if p.path.startswith("network.b.params")] == []


def test_what_would_be_contacted_is_said_without_contacting_it() -> None:
    there = weights.source("resnet18.a1_in1k")
    assert "." in there.host and there.what == "timm/resnet18.a1_in1k" and 40e6 < there.bytes < 55e6
    with pytest.raises(WeightsError, match="timm knows no stored weights for resnet14t_nobody|timm knows no stored"):
        weights.source("darknet21")


@pytest.fixture
def served(tmp_path: Path, monkeypatch):
    """A server of this machine that has timm's weights of `MODEL`; what it was asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            asked.append(self.path)

    server = HTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    cfg = timm.get_pretrained_cfg(MODEL)
    assert cfg is not None
    monkeypatch.setattr(cfg, "hf_hub_id", None)
    monkeypatch.setattr(cfg, "url", f"http://127.0.0.1:{server.server_port}/theirs.pth")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda model: cfg)
    yield asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_fetched_weights_are_used_by_a_document_that_says_download(trained, served, tmp_path: Path) -> None:
    torch.save(trained, tmp_path / "theirs.pth")
    assert weights.source(MODEL).host.startswith("127.0.0.1") and not served
    one = weights.fetch(MODEL)
    assert served == ["/theirs.pth"] and one.models == (MODEL,) and weights.fetched(MODEL) == one
    net = assemble(backbone(weights="download"), (3, 32, 32), 2, seed=0)
    own = net.state_dict()
    assert all(torch.equal(own[f"layers.b.net.{k}"], v) for k, v in trained.items() if not k.startswith("fc."))
    assert served == ["/theirs.pth"]


def test_a_server_that_has_nothing_is_told_in_words(served) -> None:
    with pytest.raises(
        WeightsError, match=rf"The weights of {MODEL} could not be fetched from 127.0.0.1:\d+ \(HTTPErr"
    ):
        weights.fetch(MODEL)


def test_the_job_takes_an_upload_in_and_puts_it_away(trained, home: Path) -> None:
    from builder import worker

    ticket = home / "uploads" / ("t" * 32)
    ticket.mkdir(parents=True)
    torch.save(trained, ticket / "00001.bin")
    job = RunStore(home).submit_job("weights", {"file": str(ticket / "00001.bin")})
    assert worker.run(job.folder) == 0
    result = job.result()
    assert result is not None and result["sha256"] == weights.stored()[0].sha256 and not ticket.exists()


def test_every_layer_with_a_file_builds_without_it_where_weights_do_not_matter() -> None:
    named = [s for s in LAYERS.values() if any(p.name == "file" for p in s.params)]
    assert named and all(s.untrained.get("file") == "" and s.untrained.get("weights") == "none" for s in named)


# -- opened into stages -----------------------------------------------------------------------------------------------


def poured(layers: tuple[Node, ...], whole: dict[str, torch.Tensor], size: int = 64) -> torch.nn.Module:
    """The network with the backbone's weights in it, wherever they are now."""
    net = assemble(layers, (1, size, size), 3, seed=1).eval()
    for name, value in net.state_dict().items():
        _, _, rest = name.split(".", 2)
        own = f"layers.b.{rest}" if rest.startswith("net.") else name
        value.copy_(whole[own])
    return net


@pytest.mark.parametrize("output", ["map", "pooled", "stages"])
@pytest.mark.parametrize("model", [MODEL, "test_efficientnet", "test_mambaout"])
def test_a_backbone_opened_into_its_stages_computes_the_same(model: str, output: str) -> None:
    first = Node(id="first", name="conv2d", params={"out_channels": 4})
    b = Node(id="b", name="timm_backbone", params={"model": model, "output": output, "frozen_stages": 2})
    decoder = Node(id="d", name="unet_decoder", inputs=("b:1", "b:2", "b:3", "b"), params={"out_channels": 4})
    rest = {
        "map": (Node(id="p", name="global_pool"), Node(id="s", name="class_scores")),
        "pooled": (Node(id="s", name="class_scores"),),
        "stages": (decoder, Node(id="m", name="mask_scores")),
    }[output]
    experiment = Experiment(data=Data(size_px=64), network=(first, b, *rest))
    before = assemble(experiment.network, (1, 64, 64), 3, seed=0).eval()
    opened = expand(experiment, "b")
    stages = [n for n in opened.network if n.name == "timm_stage"]
    assert len(stages) >= 4 and not [n for n in opened.network if n.name == "timm_backbone"]
    assert [n.params.get("frozen", False) for n in stages] == [k < 2 for k in range(len(stages))]
    assert not [n.message for n in network.plan_of(opened, 3).nodes if n.message]
    after = poured(opened.network, before.state_dict())
    x = torch.rand(2, 1, 64, 64)
    assert torch.equal(before(x), after(x))
    assert Experiment.loads(opened.dumps()) == opened


def test_installed_weights_stay_with_the_stages() -> None:
    b = Node(id="b", name="timm_backbone", params={"model": "tf_efficientnet_lite0", "weights": "installed package"})
    experiment = Experiment(data=Data(size_px=64), network=(b, Node(id="p", name="global_pool")))
    whole = assemble(experiment.network, (1, 64, 64), 2, seed=0).eval()
    parts = assemble(expand(experiment, "b").network, (1, 64, 64), 2, seed=9).eval()
    x = torch.rand(2, 1, 64, 64)
    assert torch.equal(whole(x), parts(x))


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (backbone(model="test_vit"), "test_vit cannot be parted into stages"),
        ((Node(id="b", name="relu"),), "is no timm backbone"),
        ((Node(id="x", name="linear"), *backbone()), "What comes into b is not known yet"),
    ],
)
def test_what_cannot_be_opened_is_told_in_words(layers: tuple[Node, ...], words: str) -> None:
    from builder.spec import SpecError

    with pytest.raises(SpecError, match=words):
        expand(Experiment(network=layers), "b")
