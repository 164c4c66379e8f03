"""A cluster that cannot be used is refused in words; nothing brings Ray along. Without Ray."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.cluster import Cluster, Need
from builder.execute import RayExecutor, executor
from builder.needs import need_of, share_of
from builder.runs import StoreError
from builder.spec import Experiment
from tests.fake_jobs import FakeJobs
from tests.service import PROJECT


@pytest.fixture
def jobs() -> Iterator[FakeJobs]:
    made = FakeJobs()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"RAY_ADDRESS": ""}, "does not say where it is"),
        ({"RAY_ADDRESS": "ray://10.0.0.1:10001"}, "expected the address of the Jobs API"),
        ({"SCANLOOM_HOME": ""}, "data folder that all its machines share"),
        ({"RAY_AUTH_TOKEN": ""}, "There is no token"),
        ({"RAY_AUTH_TOKEN": "short"}, "too short"),
        ({"RAY_AUTH_TOKEN": "another-token-than-it-takes"}, "does not take this token"),
        ({"RAY_ADDRESS": "http://127.0.0.1:9"}, "does not answer"),
    ],
)
def test_a_cluster_that_cannot_be_used_is_refused_in_words(
    jobs: FakeJobs, home: Path, changed: dict[str, str], words: str
) -> None:
    environment = {**jobs.environment(), "SCANLOOM_HOME": str(home), **changed}
    with pytest.raises(StoreError, match=words):
        Cluster.of(environment).check()


def test_a_cluster_that_asks_for_no_token_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = FakeJobs(open=True)
    try:
        for name, value in jobs.environment().items():
            monkeypatch.setenv(name, value)
        made = executor(home)
        assert isinstance(made, RayExecutor)
        with pytest.raises(StoreError, match="asks for no token"):
            made.ensure()
        assert not made.running()
    finally:
        jobs.close()


def test_asking_for_a_place_twice_starts_it_once(jobs: FakeJobs, home: Path) -> None:
    cluster = Cluster.of({**jobs.environment(), "SCANLOOM_HOME": str(home)})
    for _ in range(2):
        cluster.submit("abc", 1, Need(cpus=2, gpus=0.25))
    (asked,) = jobs.asked
    assert (asked["entrypoint_num_cpus"], asked["entrypoint_num_gpus"]) == (2, 0.25)
    with pytest.raises(StoreError):
        cluster.submit("abc; reboot", 1, Need())


def test_several_runs_share_a_card_where_they_fit() -> None:
    assert [share_of(b, 16) for b in (1, 2, 3, 5, 9, 40)] == [0.125, 0.125, 0.25, 0.5, 1.0, 1.0]
    assert share_of(0, 16) == share_of(5, 0) == 1.0, "what is not known gets a card for itself"
    assert need_of(Experiment(), 2, [{"cpus": 4, "gpus": 0, "card_bytes": 0}]) == Need(1.0, 0.0, 1, 0)


def test_nothing_brings_ray_along() -> None:
    words = "import sys, builder.supervisor, builder.worker, builder.execute; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", words], cwd=PROJECT, check=True, timeout=60)
