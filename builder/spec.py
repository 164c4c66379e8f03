"""The experiment: a frozen, versioned document in which every choice has a path.

`training.optimizer.params.lr` is at once widget key, error location, search dimension, diff line and log field. Lists
are addressed by name, not by position: `network.conv1.params.kernel_size`, `training.augment.rotate.params.degrees`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from builder.catalog import Catalog, Part, closest
from builder.parts.images import AUGMENTATIONS, DEGRADATIONS, PREPARE
from builder.parts.layers import LAYERS
from builder.parts.search import SEARCH
from builder.parts.training import AVERAGES, GROUP, LOSSES, OPTIMIZERS, SCHEDULES, TRAINING

CATALOGS: dict[str, Catalog] = {
    "data.degrade": DEGRADATIONS,
    "training.optimizer": OPTIMIZERS,
    "training.schedule": SCHEDULES,
    "training.loss": LOSSES,
    "training.average": AVERAGES,
}
"""What is chosen at these paths."""
VERSION = 2
"""2: `training.balance` took the place of `training.class_weights`."""
INPUT = "input"
"""The id under which a node names the scan itself among its inputs."""
UNWIRED = "-"
"""The only wire of a node that nothing feeds yet: a document may hold it, a run may not."""

STACKS = ("series", "volume")
"""Ways of `Data.slices` by which the network sees several slices of a scan instead of one picture."""

Value = bool | int | float | str | None


class SpecError(ValueError):
    """A document that cannot be understood, or a path that leads nowhere. Its text is a sentence for people."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Choice(_Frozen):
    """A part by name with the settings that differ from nothing: absent settings mean the catalog's defaults."""

    name: str = Field(min_length=1, max_length=80)
    params: dict[str, Value] = {}


class Node(Choice):
    """A layer in a network.

    `inputs` are wires: ids of earlier nodes or "input"; () means the node above. A layer that puts out several things
    (the stages of a backbone) has taps: "backbone_1:2" is its second one, plain "backbone_1" its last. ("-",) = nothing
    feeds it yet.
    """

    id: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$")
    inputs: tuple[str, ...] = ()

    @field_validator("id")
    @classmethod
    def _free(cls, value: str) -> str:
        if value == INPUT:
            raise ValueError('the id "input" is the scan itself')
        return value


def feeder(wire: str) -> str:
    """Returns the id of the node that a wire comes from: "backbone_1:2" -> "backbone_1"."""
    return wire.partition(":")[0]


def _default(part: Any, name: str) -> Any:
    return part.param(name).default


class Data(_Frozen):
    """Which scans, and how each becomes the network's input. Domains and meanings: `parts.images.PREPARE`."""

    dataset: str = ""
    size_px: int = _default(PREPARE, "size_px")
    fit: str = _default(PREPARE, "fit")
    num_patches: int = _default(PREPARE, "num_patches")
    outlined_share: float = _default(PREPARE, "outlined_share")
    pixel_mm: float = _default(PREPARE, "pixel_mm")
    slice_mm: float = _default(PREPARE, "slice_mm")
    colour: str = _default(PREPARE, "colour")
    window: str = _default(PREPARE, "window")
    slices: str = _default(PREPARE, "slices")
    num_slices: int = _default(PREPARE, "num_slices")
    slice_choice: str = _default(PREPARE, "slice_choice")
    normalize: str = _default(PREPARE, "normalize")
    degrade: Choice = Choice(name="none")
    exclude: tuple[str, ...] = Field((), max_length=100_000)
    """Ids of training cases that are not learned from; the other sides are never touched."""
    leaks: Literal["refused", "accepted"] = "refused"
    """Whether to learn from scans that occur on another side, too: what comes of it is stamped LEAKY."""

    @property
    def channels(self) -> int:
        """Channels of a prepared scan: 1 for grey, 3 for rgb and for a slice with its neighbours."""
        return 1 if self.colour == "grey" else 3

    @property
    def scale(self) -> int:
        """How many times finer the grid of a restored picture is than that of the network's input; 1 but for
        super-resolution."""
        if self.degrade.name not in DEGRADATIONS:
            return 1
        found = {**DEGRADATIONS[self.degrade.name].defaults, **self.degrade.params}.get("scale", 1)
        return found if isinstance(found, int) and 1 <= found <= 16 else 1

    @property
    def layout(self) -> str:
        """What a prepared scan is: "maps" (one picture), "series" (slices one after another) or "volume"."""
        return self.slices if self.slices in STACKS else "maps"

    @property
    def blocks(self) -> bool:
        """Whether the network sees patches of volumes: blocks of `num_slices` slices, at their own resolution."""
        return self.layout == "volume" and self.fit == "patches"

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of a prepared scan: (C, H, W) of maps, (S, C, H, W) of a series, (C, D, H, W) of a volume; with patches
        those of one patch."""
        side = self.size_px
        return {
            "maps": (self.channels, side, side),
            "series": (self.num_slices, self.channels, side, side),
            "volume": (self.channels, self.num_slices, side, side),
        }[self.layout]

    @property
    def channel_axis(self) -> int:
        """Where the channels lie in a prepared scan or a batch of them, counted from the end: -3, of a volume -4."""
        return -4 if self.layout == "volume" else -3


class Group(_Frozen):
    """Layers that learn otherwise than the rest. Domains and meanings: `parts.training.GROUP`."""

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$")
    nodes: tuple[str, ...] = ()
    lr_factor: float = _default(GROUP, "lr_factor")
    l2_factor: float = _default(GROUP, "l2_factor")
    l1_factor: float = _default(GROUP, "l1_factor")


class Training(_Frozen):
    """How the network learns. Domains and meanings: `parts.training.TRAINING`."""

    optimizer: Choice = Choice(name="adamw")
    schedule: Choice = Choice(name="one_cycle")
    loss: Choice = Choice(name="usual")
    augment: tuple[Choice, ...] = ()
    epochs: int = _default(TRAINING, "epochs")
    batch_size: int = _default(TRAINING, "batch_size")
    accumulate: int = _default(TRAINING, "accumulate")
    seed: int = _default(TRAINING, "seed")
    l1: float = _default(TRAINING, "l1")
    l2: float = _default(TRAINING, "l2")
    label_smoothing: float = _default(TRAINING, "label_smoothing")
    balance: str = _default(TRAINING, "balance")
    init: str = _default(TRAINING, "init")
    clip_norm: float = _default(TRAINING, "clip_norm")
    clip_value: float = _default(TRAINING, "clip_value")
    backbone_rate: float = _default(TRAINING, "backbone_rate")
    groups: tuple[Group, ...] = Field((), max_length=100)
    average: Choice = Choice(name="none")
    patience: int = _default(TRAINING, "patience")
    min_delta: float = _default(TRAINING, "min_delta")
    monitor: str = _default(TRAINING, "monitor")
    mixed_precision: str = _default(TRAINING, "mixed_precision")
    compile: str = _default(TRAINING, "compile")
    resident: str = _default(TRAINING, "resident")
    channels_last: bool = _default(TRAINING, "channels_last")
    border: str = _default(TRAINING, "border")
    test_time: str = _default(TRAINING, "test_time")
    checkpoint_every_s: int = _default(TRAINING, "checkpoint_every_s")
    processes: int = _default(TRAINING, "processes")

    @field_validator("groups")
    @classmethod
    def _named_once(cls, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        names = [g.name for g in groups]
        if len(set(names)) != len(names):
            raise ValueError(f"two groups of layers share the name {next(n for n in names if names.count(n) > 1)!r}")
        return groups


class Dimension(_Frozen):
    """A choice that a search may make: the values that lie at `path`, as everywhere, or a layer that is there or not.

    Either `low`, `high` (with `step`, 0 = any number between, or `log`), or `choices`. Of "network.<layer>" and
    "training.augment.<name>" the choices are "present" and "absent"; of "training.optimizer" and the other parts of
    `training` they are names. What there is to choose from, `search.space` says.
    """

    path: str = Field(min_length=1, max_length=200)
    low: int | float | None = None
    high: int | float | None = None
    step: int | float = 0
    log: bool = False
    choices: tuple[Value, ...] = Field((), max_length=200)


class Objective(_Frozen):
    """What a search looks for: a validation score of the task by name ("auc"), or one of `parts.search.COSTS`."""

    metric: str = Field(min_length=1, max_length=80)


class Search(_Frozen):
    """Which settings win. Domains and meanings: `parts.search.SEARCH`.

    `objectives`: () = the score that the training watches; several = the best compromises (Pareto front).
    """

    dimensions: tuple[Dimension, ...] = Field((), max_length=200)
    strategy: Choice = Choice(name="tpe")
    pruner: Choice = Choice(name="none")
    objectives: tuple[Objective, ...] = Field((), max_length=20)
    num_trials: int = _default(SEARCH, "num_trials")
    max_minutes: float = _default(SEARCH, "max_minutes")
    max_gpu_hours: float = _default(SEARCH, "max_gpu_hours")
    parallel: int = _default(SEARCH, "parallel")
    seed: int = _default(SEARCH, "seed")
    max_parameters: int = _default(SEARCH, "max_parameters")
    max_milliseconds: float = _default(SEARCH, "max_milliseconds")
    max_memory_mb: float = _default(SEARCH, "max_memory_mb")


class Experiment(_Frozen):
    """Everything a user has chosen. Frozen: each edit returns a new document.

    `weights`: stored weights that the network begins with, by the SHA-256 of their content, such as those of a network
    that was taken in; "" = each layer's own beginning. `search`: the choices that a study is to make; a run has none.
    """

    version: int = VERSION
    name: str = Field("Untitled", min_length=1, max_length=120)
    task: str = "recognition"
    data: Data = Data()
    network: tuple[Node, ...] = Field((), max_length=2000)
    weights: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    training: Training = Training()
    search: Search | None = None

    @field_validator("network")
    @classmethod
    def _distinct(cls, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        ids = [n.id for n in nodes]
        if len(set(ids)) != len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise ValueError(f"two layers share the id {twice!r}")
        return nodes

    # -- reading and writing ------------------------------------------------------------------------------------------

    @classmethod
    def loads(cls, text: str | bytes) -> Self:
        """Reads a document, migrating older versions.

        Raises:
            SpecError: not JSON, a newer version, unknown fields (with "did you mean") or values of a wrong type;
                all that is wrong is said at once.
        """
        try:
            found = json.loads(text, parse_constant=_no_constant)
        except RecursionError:
            raise SpecError("This is not an experiment: its JSON is nested too deeply.") from None
        except ValueError as error:
            raise SpecError(f"This is not an experiment: it is not valid JSON ({str(error)[:120]}).") from None
        if not isinstance(found, dict):
            raise SpecError("This is not an experiment: expected a JSON object with name, task, data and network.")
        if found and not set(found) & set(cls.model_fields):
            raise SpecError(
                "This is not an experiment of ScanLoom: it has none of name, task, data, network and training. Choose "
                "a JSON file that was saved here."
            )
        return cls.checked(migrate(found))

    @classmethod
    def checked(cls, found: Mapping[str, Any]) -> Self:
        """Builds a document from plain data; raises SpecError naming every path that is wrong."""
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            raise SpecError(_sentences(error, cls)) from None

    def dumps(self) -> str:
        """The document as JSON text, two spaces indented, ending in a newline; `loads` gives the same document back."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical document: equal choices, equal digest.

        Settings that a document leaves at their defaults and that did not exist in the first version (`_FIRST`) are
        left out, so runs from before a setting existed keep their digest, and so does every document that does not
        use it. Also left out is what means nothing: the number of slices and their choice where the network sees one
        picture, the number of patches where none are cut, how patches of volumes are cut where there are none. What the
        first version called otherwise (`class_weights`) is written as it was then. What a study may try is no part of
        what a run does: `search` never counts.
        """
        plain = self.model_dump(mode="json")
        plain["version"] = 1
        plain["search"] = None
        plain["training"]["class_weights"] = self.training.balance == "weights"
        if self.training.balance == "weights":
            del plain["training"]["balance"]
        if self.data.layout == "maps":
            del plain["data"]["num_slices"], plain["data"]["slice_choice"]
        if self.data.fit != "patches":
            del plain["data"]["num_patches"]
        if self.data.blocks:
            del plain["data"]["slice_choice"]
        else:
            del plain["data"]["outlined_share"], plain["data"]["pixel_mm"], plain["data"]["slice_mm"]
        for section, place, usual in (
            ("", plain, type(self)().model_dump(mode="json")),
            ("data", plain["data"], type(self.data)().model_dump(mode="json")),
            ("training", plain["training"], type(self.training)().model_dump(mode="json")),
        ):
            for name in [n for n in place if n not in _FIRST[section] and place[n] == usual.get(n)]:
                del place[name]
        canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    # -- paths --------------------------------------------------------------------------------------------------------

    def at(self, path: str) -> Any:
        """Returns what lies at `path`: a value, a section, a node; raises SpecError where it leads nowhere.

        A setting that the document leaves to its default is not in `params`: `at` raises for it, `leaves` omits it.
        """
        found: Any = self
        for step in path.split("."):
            found = _step(found, step, path)
        return found

    def replace(self, path: str, value: Any) -> Self:
        """Returns the document with `value` at `path`.

        Settings of parts (`...params.x`) may be new or, with value None, be removed (back to the default). Everything
        else must exist. Raises SpecError for a path that leads nowhere or a value of a wrong type.
        """
        plain = json.loads(json.dumps(self.model_dump(mode="json")))
        *way, last = path.split(".")
        place = plain
        for step in way:
            place = _step(place, step, path)
        if isinstance(value, BaseModel):
            value = value.model_dump(mode="json")
        elif isinstance(value, tuple | list):
            value = [v.model_dump(mode="json") if isinstance(v, BaseModel) else v for v in value]
        if isinstance(place, list):
            index = next((i for i, item in enumerate(place) if _name(item) == last), None)
            if index is None:
                raise SpecError(_nowhere(path, last, [_name(item) for item in place]))
            place[index] = value
        elif isinstance(place, dict) and (last in place or (way and way[-1] == "params")):
            if value is None and way and way[-1] == "params":
                place.pop(last, None)
            else:
                place[last] = value
        else:
            raise SpecError(_nowhere(path, last, list(place) if isinstance(place, dict) else []))
        return type(self).checked(plain)

    def leaves(self) -> dict[str, Any]:
        """Every value by its path, lists by name; wires as "a, b" under "network.<id>.inputs"."""
        return dict(_leaves("", self.model_dump(mode="json")))

    def diff(self, other: "Experiment") -> dict[str, tuple[Any, Any]]:
        """What differs: {path: (here, there)}; None stands for absent. Order of layers is told as "network".

        A setting that the one writes down and the other leaves to the same default is no difference: both mean it.
        """
        here, there = self.leaves(), other.leaves()
        mean, means = ({**dict(e._usual()), **leaves} for e, leaves in ((self, here), (other, there)))
        found = {p: (here.get(p), there.get(p)) for p in dict.fromkeys([*here, *there]) if mean.get(p) != means.get(p)}
        orders = [[n.id for n in e.network] for e in (self, other)]
        common = [[i for i in order if i in orders[1 - k]] for k, order in enumerate(orders)]
        if common[0] != common[1]:
            found["network"] = (" > ".join(orders[0]), " > ".join(orders[1]))
        return found

    def _usual(self) -> Iterator[tuple[str, Any]]:
        """Every setting that the document's parts have by its path, with its default."""
        parts: list[tuple[str, Mapping[str, Part], Choice]] = [(p, of, self.at(p)) for p, of in CATALOGS.items()]
        parts += [(f"network.{node.id}", LAYERS, node) for node in self.network]
        parts += [(f"training.augment.{one.name}", AUGMENTATIONS, one) for one in self.training.augment]
        for path, catalog, choice in parts:
            if choice.name in catalog:
                yield from ((f"{path}.params.{name}", value) for name, value in catalog[choice.name].defaults.items())

    # -- editing the network ------------------------------------------------------------------------------------------

    def fresh_id(self, name: str) -> str:
        """Returns an id for a new layer that no layer of this document has: "conv2d" -> "conv2d_3"."""
        stem = name[:32]
        taken = {n.id for n in self.network}
        return next(i for i in (f"{stem}_{k}" for k in range(1, len(taken) + 2)) if i not in taken)

    def insert(self, node: Node, after: str | None = None) -> Self:
        """Returns the document with `node` below the layer `after` (None: at the end; "input": at the top)."""
        at = len(self.network) if after is None else self._index(after) + 1
        return self._with((*self.network[:at], node, *self.network[at:]))

    def remove(self, id: str) -> Self:
        """Returns the document without layer `id`; wires that came from it come from what fed it."""
        index = self._index(id)
        gone = self.network[index]
        feeds = gone.inputs or ((self.network[index - 1].id,) if index else (INPUT,))
        below = index + 1 < len(self.network)
        rest = []
        for k, node in enumerate(self.network):
            if k == index:
                continue
            if id in map(feeder, node.inputs):
                wires = [w for i in node.inputs for w in (feeds if feeder(i) == id else (i,))]
                wires = [w for w in wires if w != UNWIRED] or [UNWIRED]
                node = node.model_copy(update={"inputs": tuple(dict.fromkeys(wires))})
            elif below and k == index + 1 and not node.inputs and gone.inputs:
                node = node.model_copy(update={"inputs": gone.inputs})
            rest.append(node)
        return self._with(tuple(rest))

    def move(self, id: str, by: int) -> Self:
        """Returns the document with layer `id` moved `by` places down (negative: up), held within the list."""
        index = self._index(id)
        nodes = list(self.network)
        node = nodes.pop(index)
        nodes.insert(min(max(index + by, 0), len(nodes)), node)
        return self._with(tuple(nodes))

    def duplicate(self, id: str) -> Self:
        """Returns the document with a copy of layer `id` right below it, fed by the original."""
        node = self.network[self._index(id)]
        return self.insert(node.model_copy(update={"id": self.fresh_id(node.name), "inputs": ()}), after=id)

    def _with(self, nodes: tuple[Node, ...]) -> Self:
        return type(self).checked({**self.model_dump(), "network": [n.model_dump() for n in nodes]})

    def _index(self, id: str) -> int:
        if id == INPUT:
            return -1
        for index, node in enumerate(self.network):
            if node.id == id:
                return index
        raise SpecError(_nowhere(f"network.{id}", id, [n.id for n in self.network]))


_FIRST = {
    "": {"version", "name", "task", "data", "network", "training", "search"},
    "data": {
        *("dataset", "size_px", "fit", "num_patches", "colour", "window", "slices", "num_slices", "slice_choice"),
        "normalize",
    },
    "training": {
        *("optimizer", "schedule", "augment", "epochs", "batch_size", "accumulate", "seed", "l1", "l2"),
        *("label_smoothing", "class_weights", "clip_norm", "patience", "monitor", "mixed_precision", "channels_last"),
        "checkpoint_every_s",
    },
}
"""{section: its settings that are in every digest}. Frozen: a setting added later must not be named here."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with a document: where, what, and where possible the document with it put right.

    Attributes:
        path: the choice it is about. message: plain sentence: what came, what was expected.
        severity: "error" (cannot start) or "warning" (may start).
        repair: words for the button. fix: the repaired document.
    """

    path: str
    message: str
    severity: str = "error"
    repair: str = ""
    fix: Experiment | None = None


def migrate(found: dict[str, Any]) -> dict[str, Any]:
    """Returns a document of any older version as one of this version; raises SpecError for a newer one."""
    version = found.get("version", VERSION)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise SpecError(f"The experiment's version is {version!r}; expected a whole number from 1 to {VERSION}.")
    if version > VERSION:
        raise SpecError(
            f"This experiment is of version {version}; this ScanLoom reads up to version {VERSION}. "
            "Update ScanLoom to open it."
        )
    training = found.get("training")
    if isinstance(training, dict) and "class_weights" in training:
        found = {**found, "training": {**training}}
        if weighed := found["training"].pop("class_weights"):
            found["training"].setdefault("balance", "weights" if weighed is True else weighed)
    return {**found, "version": VERSION} if found else found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number that an experiment may hold")


def _name(item: Any) -> str:
    plain = item if isinstance(item, Mapping) else getattr(item, "__dict__", {})
    return str(next((plain[key] for key in ("id", "name", "path", "metric") if key in plain), ""))


def _nowhere(path: str, step: str, known: list[str]) -> str:
    return f"There is no {path!r} in this experiment.{closest(step, known)}"


def _step(place: Any, step: str, path: str) -> Any:
    if isinstance(place, tuple | list):
        for item in place:
            if _name(item) == step:
                return item
        raise SpecError(_nowhere(path, step, [_name(i) for i in place]))
    if isinstance(place, Mapping):
        if step in place:
            return place[step]
        raise SpecError(_nowhere(path, step, [str(k) for k in place]))
    if isinstance(place, BaseModel) and step in type(place).model_fields:
        return getattr(place, step)
    known = list(type(place).model_fields) if isinstance(place, BaseModel) else []
    raise SpecError(_nowhere(path, step, known))


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(f"{path}.{key}" if path else key, item)
    elif isinstance(value, list):
        if path.endswith((".inputs", ".nodes", ".choices")):
            yield path, ", ".join(map(str, value))
        elif path.endswith(".exclude"):
            yield from [(path, ", ".join(value))] if value else []
        else:
            for item in value:
                yield from _leaves(f"{path}.{_name(item)}", item)
    else:
        yield path, value


def _sentences(error: ValidationError, model: type[BaseModel]) -> str:
    faults = {_place(fault): fault for fault in error.errors()}  # one of each place, however many types it may have
    said = []
    for place, fault in list(faults.items())[:20]:
        path = ".".join(map(str, place)) or "the document"
        if place != fault["loc"]:
            said.append(f"{path}: {_no_value(fault['input'])}.")
        elif fault["type"] == "extra_forbidden":
            said.append(f"{path}: unknown field.{closest(str(fault['loc'][-1]), _fields(model, fault['loc'][:-1]))}")
        elif fault["type"] == "missing":
            said.append(f"{path}: missing.")
        else:
            came = "" if isinstance(fault["input"], dict | list | tuple) else f" (it is {str(fault['input'])[:60]!r})"
            said.append(f"{path}: {fault['msg'].removeprefix('Value error, ').lower()}{came}.")
    more = len(faults) - len(said)
    return " ".join(said) + (f" And {more} more." if more > 0 else "")


def _place(fault: Any) -> tuple[Any, ...]:
    """Where a fault lies, without the type that pydantic adds for each member of `Value`."""
    place = tuple(fault["loc"])
    return place[:-1] if place[-3:-2] == ("params",) and place[-1] in ("bool", "int", "float", "str") else place


def _no_value(came: Any) -> str:
    if isinstance(came, float):
        return f"must be a finite number (it is {str(came)!r})"
    what = "an object" if isinstance(came, dict) else "a list" if isinstance(came, list | tuple) else "something else"
    return f"must be a number, a word, yes, no or nothing (it is {what})"


def _fields(model: type[BaseModel], way: tuple[Any, ...]) -> list[str]:
    inner: Any = model
    for step in way:
        if isinstance(step, int):
            continue
        note = inner.model_fields[step].annotation
        inner = next((a for a in getattr(note, "__args__", ()) if isinstance(a, type)), note)
    return list(inner.model_fields) if isinstance(inner, type) and issubclass(inner, BaseModel) else []
