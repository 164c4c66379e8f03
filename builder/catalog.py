"""What can be chosen, declared once as frozen data: domains of values, parts, and catalogs of parts.

From one entry come the form, the check, the live shape, the module, the exported code, the documentation, the search
domain and the contract test. Nothing here imports torch: a part only names what it builds by a dotted path.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from math import isfinite
from re import fullmatch
from typing import Any, TypeVar

__all__ = [
    "LAYOUTS",
    "Catalog",
    "Digest",
    "Domain",
    "Flag",
    "Float",
    "Int",
    "LayerSpec",
    "OneOf",
    "Part",
    "Rule",
    "Text",
    "UnknownPart",
    "load",
]


def load(path: str) -> Any:
    """Returns what a dotted path such as "torch.optim:AdamW" names.

    Raises:
        ImportError, AttributeError: when the module or the name in it does not exist.
    """
    module, _, name = path.partition(":")
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def closest(word: str, known: list[str]) -> str:
    """Returns " Did you mean ...?" for the best match of `word` among `known`, or "" where nothing is near."""
    near = (
        get_close_matches(word, known, n=1, cutoff=0.5) or [k for k in known if word and word.lower() in k.lower()][:1]
    )
    return f" Did you mean {near[0]}?" if near else ""


@dataclass(frozen=True)
class _Named:
    @property
    def label(self) -> str:
        """What people read: the title, else the name in words ("weight_decay" -> "Weight decay")."""
        if title := getattr(self, "title", ""):
            return str(title)
        name: str = self.name  # type: ignore[attr-defined]
        words = name.removesuffix("_px").removesuffix("_mm").removesuffix("_s").replace("_", " ")
        return words[:1].upper() + words[1:]


@dataclass(frozen=True)
class _Number(_Named):
    name: str
    default: Any
    low: Any
    high: Any
    help: str
    step: Any = None
    log: bool = False
    unit: str = ""
    title: str = ""

    def _within(self, value: Any) -> Any:
        if not self.low <= value <= self.high:
            unit = f" {self.unit}" if self.unit else ""
            raise ValueError(f"{self.label} is {value:g}; it must lie between {self.low:g} and {self.high:g}{unit}.")
        return value

    def nearest(self, value: Any) -> Any:
        """Returns the allowed value next to `value` (the default where it is no number): what a repair proposes."""
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            return self.default
        return type(self.default)(min(max(value, self.low), self.high))


@dataclass(frozen=True)
class Int(_Number):
    """A whole number in [low, high]; `log` says that it is searched on a logarithmic scale."""

    step: int = 1

    def parse(self, value: Any) -> int:
        """Returns `value` as an int in range; raises ValueError with a plain sentence."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value != int(value):
            raise ValueError(f"{self.label} must be a whole number, not {value!r}.")
        return int(self._within(value))


@dataclass(frozen=True)
class Float(_Number):
    """A number in [low, high]; `log` says that it is shown and searched on a logarithmic scale."""

    step: float | None = None

    def parse(self, value: Any) -> float:
        """Returns `value` as a finite float in range; raises ValueError with a plain sentence."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise ValueError(f"{self.label} must be a number, not {value!r}.")
        return float(self._within(value))


@dataclass(frozen=True)
class OneOf(_Named):
    """One of a few words."""

    name: str
    default: str
    options: tuple[str, ...]
    help: str
    title: str = ""

    def parse(self, value: Any) -> str:
        """Returns `value` if it is an option; raises ValueError with "did you mean"."""
        if value not in self.options:
            near = closest(str(value), list(self.options))
            raise ValueError(f"{self.label} is {value!r}; it must be one of {', '.join(self.options)}.{near}")
        return str(value)

    def nearest(self, value: Any) -> str:
        """Returns the option most like `value`, else the default."""
        return (get_close_matches(str(value), list(self.options), n=1, cutoff=0.5) or [self.default])[0]


@dataclass(frozen=True)
class Flag(_Named):
    """Yes or no."""

    name: str
    default: bool
    help: str
    title: str = ""

    def parse(self, value: Any) -> bool:
        """Returns `value` if it is a bool; raises ValueError."""
        if not isinstance(value, bool):
            raise ValueError(f"{self.label} must be yes or no (true or false), not {value!r}.")
        return value

    def nearest(self, value: Any) -> bool:
        """Returns the default: there is nothing between yes and no."""
        return self.default


@dataclass(frozen=True)
class Text(_Named):
    """A name out of a long list, such as a timm model's. `known` is the dotted path of a callable that lists them."""

    name: str
    default: str
    help: str
    known: str = ""
    title: str = ""

    def names(self) -> list[str]:
        """Returns all known values; imports what `known` points to."""
        return list(load(self.known)()) if self.known else []

    def parse(self, value: Any) -> str:
        """Returns `value` if it is a known name; raises ValueError with "did you mean"."""
        if not isinstance(value, str) or not value:
            raise ValueError(f"{self.label} must be a name, not {value!r}.")
        if self.known and value not in (known := self.names()):
            raise ValueError(f"{self.label}: there is no {value!r}.{closest(value, known)}")
        return value

    def nearest(self, value: Any) -> str:
        """Returns the known name most like `value`, else the default."""
        return (get_close_matches(str(value), self.names(), n=1, cutoff=0.5) or [self.default])[0]


@dataclass(frozen=True)
class Digest(_Named):
    """A file that was taken in, by the SHA-256 of its content (64 hexadecimal digits); "" = none."""

    name: str
    help: str
    title: str = ""
    default: str = ""

    def parse(self, value: Any) -> str:
        """Returns `value` if it is "" or a digest; raises ValueError with a plain sentence."""
        if not isinstance(value, str) or (value and not fullmatch(r"[0-9a-f]{64}", value)):
            raise ValueError(f"{self.label} must be the SHA-256 of a file that was taken in, not {value!r}.")
        return value

    def nearest(self, value: Any) -> str:
        """Returns "": no file."""
        return ""


Domain = Int | Float | OneOf | Flag | Text | Digest


@dataclass(frozen=True)
class Idle:
    """A setting that does nothing while another one has a value: setting `name` where `other` is `value`.

    `words` say so to people, as a sentence.
    """

    name: str
    other: str
    value: Any
    words: str

    def applies(self, settings: Mapping[str, Any], default: Any) -> bool:
        """Whether somebody set it for nothing. `settings`: of the part, defaults filled in."""
        return bool(settings[self.name] != default and settings[self.other] == self.value)


@dataclass(frozen=True)
class Part:
    """Something a user picks: a layer, an optimizer, an augmentation.

    Attributes:
        name: identifier in documents. title: what people read.
        target: dotted path of what it builds ("" = only settings).
        help: one or two plain sentences. params: the choices it offers. group: heading in palettes.
        finds: other words people may search it by.
        idle: settings that do nothing while another one has a certain value.
    """

    name: str
    title: str
    target: str
    help: str
    params: tuple[Domain, ...] = ()
    group: str = ""
    finds: str = ""
    idle: tuple[Idle, ...] = field(default=(), kw_only=True)

    @property
    def defaults(self) -> dict[str, Any]:
        """A new dict of every parameter's default."""
        return {p.name: p.default for p in self.params}

    def param(self, name: str) -> Domain:
        """Returns the domain called `name`; raises UnknownPart with "did you mean"."""
        for p in self.params:
            if p.name == name:
                return p
        known = [p.name for p in self.params]
        offers = f"It has {', '.join(known)}." if known else "It has no settings."
        raise UnknownPart(f"{self.title} has no setting {name!r}. {offers}{closest(name, known)}")

    def load(self) -> Callable[..., Any]:
        """Imports and returns what `target` names."""
        return load(self.target)


@dataclass(frozen=True)
class Rule(Part):
    """An optimizer.

    Attributes:
        fixed: constructor arguments that are always the same.
        needs: packages other than torch that exported code with it imports, as pip names them.
    """

    fixed: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    needs: tuple[str, ...] = field(default=(), kw_only=True)

    def arguments(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the keyword arguments of `target`: all `settings`, a switch that is idle beside them off, and what is
        fixed."""
        off = {idle.name: False for idle in self.idle if settings[idle.other] == idle.value}
        return {**settings, **off, **self.fixed}


LAYOUTS = {
    "vector": "a vector",
    "sequence": "a sequence",
    "maps": "a picture",
    "series": "a series of slices",
    "volume": "a volume",
}
"""What the dimensions of a tensor mean, batch left out, with words for people: vector (F), sequence (T, F), maps
(C, H, W), series (S, C, H, W) of slices one after another, volume (C, D, H, W)."""


@dataclass(frozen=True)
class LayerSpec(Part):
    """A layer of a network.

    Attributes:
        inferred: constructor arguments that the planner fills in, each by a rule about the input: "channels" (how many
            there are, or features of a sequence or vector), "features" (size of the last dimension), "size" (height),
            "axis" (the dimension where channels or features lie, counted with the batch), "classes" (number of classes
            of the data), "steps" (of a sequence), "channels_each", "sizes" ((height, width)) and "extents" (all sizes
            but the channels) of every input, "dimensions" (how many sizes that are); of the scan: "scan_channels",
            "scan_size", "scan_extent".
        fixed: constructor arguments that are the same wherever this layer stands.
        inputs: 1, or 2 for "two or more".
        most: largest number of inputs; 0 = one where `inputs` is 1, else any number.
        takes: layouts (`LAYOUTS`) that it accepts; () = any. A layer that takes maps works on each slice of a series,
            one that takes vectors on each step of a sequence, without saying so.
        gives: layout of a result of four dimensions, which its size cannot tell; "" = that of the first input.
        untrained: settings under which it is built where its initial weights do not matter (planning, loading a run).
        needs: packages other than torch that exported code with this layer imports, as pip names them.
    """

    inferred: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    inputs: int = 1
    most: int = 0
    takes: tuple[str, ...] = ()
    gives: str = ""
    untrained: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    @property
    def several(self) -> bool:
        """Whether more than one input may feed it."""
        return self.inputs > 1 or self.most > 1


class UnknownPart(KeyError):
    """A name that is in no catalog. Its text is a sentence for people."""

    def __str__(self) -> str:
        return str(self.args[0])


P = TypeVar("P", bound=Part)


class Catalog(Mapping[str, P]):
    """Parts by name, in the order of their declaration."""

    def __init__(self, name: str, parts: tuple[P, ...]):
        self.name = name
        self._parts = {p.name: p for p in parts}
        if len(self._parts) != len(parts):
            raise ValueError(f"two parts of the catalog of {name}s share a name")

    def __getitem__(self, name: str) -> P:
        try:
            return self._parts[name]
        except KeyError:
            raise UnknownPart(f"There is no {self.name} called {name!r}.{closest(str(name), self.names)}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def names(self) -> list[str]:
        """All names in order."""
        return list(self._parts)

    @property
    def groups(self) -> dict[str, list[P]]:
        """Parts by their group, both in order of declaration."""
        found: dict[str, list[P]] = {}
        for part in self._parts.values():
            found.setdefault(part.group, []).append(part)
        return found

    def search(self, words: str) -> list[P]:
        """Returns the parts whose name, title, group, help or search words hold every word of `words`."""
        wanted = words.lower().split()
        return [
            p
            for p in self._parts.values()
            if all(w in f"{p.name} {p.title} {p.group} {p.help} {p.finds}".lower() for w in wanted)
        ]
