"""More than one machine: Ray places runs on the machines of a cluster, and says how they are.

Ray gets a fixed command and the id of a run, nothing else (no text of a user, no scan): what is to be done lies in the
data folder, which every machine sees. Asking is plain HTTP to Ray's Jobs API
(https://docs.ray.io/en/latest/cluster/running-applications/job-submission/rest.html), so that neither server nor
supervisor imports Ray. Each attempt of a run has an id of its own (`<run>-<attempt>`): asking twice starts it once.

Ray is only spoken to with a token: without one, whoever reaches its ports may run anything on every machine of it
(CVE-2023-48022). The token itself travels in the clear, so a cluster belongs into a network of its own.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from builder.runs import StoreError, checked_id, read_json

ENTRY = 'cd "$SCANLOOM_PROGRAM" && exec "$SCANLOOM_PYTHON" -m {module} {run} {attempt}'
"""What a machine of the cluster is asked to run; both variables are its own (`cluster_start` sets them)."""
EXIT_NOT_SHARED = 78  # the machine does not see the run: another data folder, or a shared one that is not mounted
TIMEOUT_S = 15.0
_MISSING = 404
_STATES = {
    "PENDING": "waiting",
    "RUNNING": "running",
    "SUCCEEDED": "ended",
    "FAILED": "ended",
    "STOPPED": "ended",
}


class Unreachable(StoreError):
    """The cluster does not answer; what it was asked before goes on."""


@dataclass(frozen=True)
class Need:
    """What one process of a run takes of a machine: processors and graphics cards, shares of one allowed. `processes`
    share each batch, each of them needing this much. `bytes` is the memory expected, 0 where it was not reckoned."""

    cpus: float = 1.0
    gpus: float = 0.0
    processes: int = 1
    bytes: int = 0

    @classmethod
    def read(cls, path: Path) -> Need | None:
        """What `to_json` wrote into `path`; None where nothing lies there."""
        plain = read_json(path)
        try:
            return None if plain is None else cls(**plain)
        except TypeError:
            return None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def words(self) -> str:
        each = f"{self.cpus:g} processor{'s' if self.cpus != 1 else ''}"
        if self.gpus:
            each += f" and {self.gpus:g} of a graphics card" if self.gpus < 1 else f" and {self.gpus:g} graphics cards"
        return each if self.processes == 1 else f"{self.processes} times {each}"


@dataclass(frozen=True)
class Place:
    """How a placed attempt is.

    Attributes:
        state: "waiting" (for a free machine), "running", "ended", or "absent" (Ray never heard of it).
        code: the exit status of its process, None where nobody saw it end (its machine is gone) or it has not.
        node: Ray's id of the machine, "" while it waits. words: why it ended without a code, for people.
    """

    state: str
    code: int | None = None
    node: str = ""
    words: str = ""


@dataclass(frozen=True)
class Node:
    """One machine: its processors and graphics cards, and the memory of one card in bytes (0: unknown)."""

    id: str
    cpus: float
    gpus: float
    card_bytes: int = 0


def submission(run: str, attempt: int) -> str:
    """Ray's id for an attempt of a run."""
    return f"{checked_id(run)}-{attempt}"


class Cluster:
    """A Ray cluster.

    Args:
        address: of its Jobs API, as http://HOST:8265. token: that it asks for.
        module: what a machine runs for an attempt, `python -m MODULE RUN ATTEMPT`.
    """

    def __init__(self, address: str, token: str, module: str = "builder.placed") -> None:
        self.address, self.module = address.rstrip("/"), module
        self._token = token

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Cluster:
        """The cluster that RAY_ADDRESS names. StoreError in words without address, token or a named data folder."""
        address = environment.get("RAY_ADDRESS", "").strip()
        if not address:
            raise StoreError(
                "SCANLOOM_EXECUTOR is ray, and RAY_ADDRESS does not say where it is: set it to the address of the "
                "cluster's Jobs API, as http://127.0.0.1:8265 on the head machine."
            )
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or not _port(parts):
            raise StoreError(
                f"RAY_ADDRESS is {address!r}; expected the address of the Jobs API, as http://127.0.0.1:8265 (neither "
                "ray:// nor the port 6379 that machines join at)."
            )
        if not environment.get("SCANLOOM_HOME"):
            raise StoreError(
                "A cluster needs a data folder that all its machines share: set SCANLOOM_HOME to it, on every machine."
            )
        return cls(address, _token(environment), environment.get("SCANLOOM_RAY_MODULE") or "builder.placed")

    def check(self) -> None:
        """Unreachable or StoreError, in words, unless the cluster answers and takes the token, and takes no other."""
        self._ask("GET", "/api/version")
        if self._status_of("GET", "/api/version", token="") not in (401, 403):
            raise StoreError(
                f"The cluster at {self.address} asks for no token, so anybody who reaches it may run anything on its "
                "machines: start it with RAY_AUTH_MODE=token (python -m builder cluster head does)."
            )

    def nodes(self) -> list[Node]:
        """The machines that are there now."""
        answer = self._ask("GET", "/api/v0/nodes?detail=1&limit=1000")
        found = []
        for plain in answer["data"]["result"]["result"]:
            if plain.get("state") == "ALIVE":
                has = plain.get("resources_total") or {}
                gpus = float(has.get("GPU", 0))
                card = int(has.get("card_mb", 0) * 1e6)
                found.append(Node(str(plain["node_id"]), float(has.get("CPU", 0)), gpus, card))
        return found

    def submit(self, run: str, attempt: int, need: Need) -> None:
        """Asks for a place for `attempt` of `run`; asking again changes nothing."""
        name = submission(run, attempt)
        alone = need.processes == 1
        body = {
            "submission_id": name,
            "entrypoint": ENTRY.format(module=self.module, run=checked_id(run), attempt=int(attempt)),
            # Of several processes each gets a place by itself; what asks for them only waits, at the head.
            **({"entrypoint_num_cpus": need.cpus} if alone else {}),
            **({"entrypoint_num_gpus": need.gpus} if alone and need.gpus else {}),
        }
        try:
            self._ask("POST", "/api/jobs/", body)
        except StoreError:
            if self.place(run, attempt).state == "absent":  # else it is there already: the answer to asking twice
                raise

    def place(self, run: str, attempt: int) -> Place:
        """How the attempt is. Unreachable where nobody can say."""
        try:
            answer = self._ask("GET", f"/api/jobs/{submission(run, attempt)}")
        except _Refused as refused:
            if refused.status == _MISSING:
                return Place("absent")
            raise
        state, code = _STATES.get(str(answer.get("status")), "running"), answer.get("driver_exit_code")
        words = ""
        if state == "ended" and code is None:
            lost = "node has died" in str(answer.get("message")) or "actor died" in str(answer.get("message"))
            words = "The machine that did the work left the cluster." if lost else "The cluster ended it."
        return Place(state, None if code is None else int(code), str(answer.get("driver_node_id") or ""), words)

    def stop(self, run: str, attempt: int) -> None:
        """Ends the process of an attempt, waiting or running; its last saved state stays."""
        self._ask("POST", f"/api/jobs/{submission(run, attempt)}/stop", {})

    # ---- asking ----

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        request = self._request(method, path, self._token, body)
        try:
            with _OPENER.open(request, timeout=TIMEOUT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                if error.code in (401, 403):
                    raise StoreError(
                        f"The cluster at {self.address} does not take this token: RAY_AUTH_TOKEN_PATH must name the "
                        "very file that its machines were started with."
                    ) from None
                words = f"The cluster at {self.address} answered with error {error.code}."
                if error.code >= 500 and b"agent" in error.read(20_000).lower():
                    words += (
                        " No machine of it has an agent that takes jobs: another Ray may hold that port (start with "
                        "--ray=--dashboard-agent-listen-port=PORT), or it is still starting."
                    )
                raise _Refused(error.code, words) from None
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            why = getattr(error, "reason", error)
            why = getattr(why, "strerror", None) or type(why).__name__
            raise Unreachable(
                f"The cluster at {self.address} (RAY_ADDRESS) does not answer ({str(why).lower()}): is its head "
                "started, and is that the address of its Jobs API?"
            ) from None

    def _status_of(self, method: str, path: str, token: str) -> int:
        try:
            with _OPENER.open(self._request(method, path, token), timeout=TIMEOUT_S) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return 0

    def _request(
        self, method: str, path: str, token: str, body: Mapping[str, Any] | None = None
    ) -> urllib.request.Request:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        data = None if body is None else json.dumps(body).encode()
        return urllib.request.Request(self.address + path, data=data, headers=headers, method=method)


# A proxy of the machine's own is for the world outside; the cluster is inside.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class _Refused(StoreError):
    """The cluster answered, with an error."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


def _port(parts: Any) -> int | None:
    try:
        return parts.port
    except ValueError:
        return None


def _token(environment: Mapping[str, str]) -> str:
    """The token, from RAY_AUTH_TOKEN or the file RAY_AUTH_TOKEN_PATH; StoreError in words without one."""
    token = environment.get("RAY_AUTH_TOKEN", "").strip()
    path = environment.get("RAY_AUTH_TOKEN_PATH") or str(token_file(Path(environment["SCANLOOM_HOME"])))
    if not token:
        try:
            token = Path(path).expanduser().read_text().strip()
        except OSError as error:
            raise StoreError(
                f"There is no token for the cluster: {path} cannot be read ({(error.strerror or '').lower()}). Start "
                "the cluster with 'python -m builder cluster head', which makes it, or name its file in "
                "RAY_AUTH_TOKEN_PATH."
            ) from None
    if not re.fullmatch(r"[\x21-\x7e]{16,}", token):
        raise StoreError(
            "The token for the cluster is too short to protect anything: 16 characters or more, no spaces."
        )
    return token


def token_file(home: Path) -> Path:
    """Where the token of a data folder's cluster lies."""
    return home / "ray.token"
