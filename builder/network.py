"""From choices to a network: shapes and cost without computing (`plan`), and the module itself (`assemble`).

Shapes come from running the real module on torch's meta device, which allocates nothing; there is no second description
of any layer. Torch is imported inside functions, so that a page opens without it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, cast

from builder.catalog import LAYOUTS, LayerSpec, UnknownPart
from builder.fits import misfit
from builder.parts.layers import LAYERS
from builder.receptive import Field, Tracker, composed, identity
from builder.spec import INPUT, UNWIRED, Experiment, Node, Training, feeder
from builder.weights import Beginning, begin, beginning, located

if TYPE_CHECKING:
    from torch import nn

    from builder.blocks.network import Network

Shape = tuple[int, ...]
"""Sizes without the batch; what they mean is told by a layout of `builder.catalog.LAYOUTS`."""

MAX_PASS_PARAMETERS = 50_000_000
"""Largest layer that may be tried out on the CPU where the meta device cannot tell its shape."""


@dataclass(frozen=True)
class Planned:
    """One layer of a plan.

    Attributes:
        inputs: wires that feed it. shape: what comes out, None where it cannot be told. parameters: learned numbers.
        layout: what the dimensions of `shape` mean; "" where that cannot be told.
        taps: shapes of all that comes out, where that is several things (the last of them is `shape`); else ().
        each: it works on every slice of a series, or step of a sequence, alone.
        flops: floating point operations for one scan (2 per multiply-add). activations: numbers it puts out.
        message: "" or what is wrong, in words. where: path below the node that the message is about ("" = the node).
        value: a setting's value that would be allowed, as a repair (None: no such repair).
        receptive_field: how much of the scan one number that comes out sees: (height, width) in px, for a series
            (slices, height, width), for a volume (depth, height, width); at most the scan's own size; () unknown.
        lone: a batch norm in it sees a single number of each channel of one scan.
    """

    id: str
    name: str
    inputs: tuple[str, ...]
    shape: Shape | None
    parameters: int = 0
    flops: int = 0
    activations: int = 0
    message: str = ""
    where: str = ""
    value: Any = None
    layout: str = ""
    taps: tuple[Shape, ...] = ()
    each: bool = False
    receptive_field: Shape = ()
    lone: bool = False


@dataclass(frozen=True)
class Plan:
    """A whole network, planned.

    Attributes:
        input: shape of the scan. layout: what its dimensions mean.
        output: shape of the last layer, None where something is wrong above it.
        parameters, flops: sums. activation_bytes: float32 memory of all layers' outputs for one scan.
    """

    input: Shape
    nodes: tuple[Planned, ...]
    layout: str = "maps"

    @property
    def output(self) -> Shape | None:
        """Shape of the last layer's output; None without layers or where it cannot be told."""
        return self.nodes[-1].shape if self.nodes else None

    @property
    def extent(self) -> Shape:
        """Sizes of the scan along which receptive fields are told: (height, width), with slices or depth before."""
        return tuple(self.input[d] for d in SEEN[self.layout])

    @property
    def parameters(self) -> int:
        """All learned numbers of the layers that could be planned."""
        return sum(n.parameters for n in self.nodes)

    @property
    def flops(self) -> int:
        """Floating point operations for one scan, forward."""
        return sum(n.flops for n in self.nodes)

    @property
    def activation_bytes(self) -> int:
        """Bytes of float32 activations of one scan that training keeps for the way back."""
        return 4 * sum(n.activations for n in self.nodes)

    def training_bytes(self, batch_size: int) -> int:
        """Estimated bytes to train: 16 a parameter (weight, gradient, Adam's two moments) + twice the activations."""
        return 16 * self.parameters + 2 * batch_size * self.activation_bytes

    def __getitem__(self, id: str) -> Planned:
        return next(n for n in self.nodes if n.id == id)

    def along(self, wire: str) -> Shape | None:
        """The shape of what a wire ("input", "conv_1", "backbone_1:2") carries; None where it cannot be told."""
        if wire == INPUT:
            return self.input
        node = next((n for n in self.nodes if n.id == feeder(wire)), None)
        return _tapped(node.shape, node.taps, wire) if node else None


@dataclass(frozen=True)
class _Outcome:
    shape: Shape | None
    parameters: int = 0
    flops: int = 0
    message: str = ""
    where: str = ""
    value: Any = None
    layout: str = ""
    taps: tuple[Shape, ...] = ()
    each: bool = False
    fields: tuple[Field, ...] = ()
    lone: bool = False


SEEN = {"vector": (), "sequence": (0,), "maps": (1, 2), "series": (0, 2, 3), "volume": (1, 2, 3)}
"""By layout, the dimensions of a scan along which a receptive field extends."""


def _tapped(shape: Shape | None, taps: tuple[Shape, ...], wire: str) -> Shape | None:
    number = wire.partition(":")[2]
    if not number:
        return shape
    return taps[int(number) - 1] if number.isdecimal() and 1 <= int(number) <= len(taps) else None


def input_shape(experiment: Experiment) -> Shape:
    """Returns the shape of what this experiment's network sees: `spec.Data.shape`."""
    return experiment.data.shape


def input_layout(experiment: Experiment) -> str:
    """Returns what the dimensions of `input_shape` mean: a layout of `builder.catalog.LAYOUTS`."""
    return experiment.data.layout


def settings(node: Node) -> dict[str, Any]:
    """Returns a node's settings with the catalog's defaults filled in, each parsed.

    Raises:
        UnknownPart, ValueError: in words, for an unknown layer or setting, or a value outside its domain.
    """
    spec = LAYERS[node.name]
    for name in node.params:
        spec.param(name)
    return {p.name: p.parse(node.params.get(p.name, p.default)) for p in spec.params}


def wires(nodes: Sequence[Node]) -> list[tuple[str, ...]]:
    """Returns for each node the ids that feed it: its own `inputs`, else the node above, else the scan."""
    return [n.inputs or ((nodes[k - 1].id,) if k else (INPUT,)) for k, n in enumerate(nodes)]


def plan_of(experiment: Experiment, num_classes: int) -> Plan:
    """Plans an experiment's network for what it sees: `plan` with `input_shape` and `input_layout`."""
    return plan(experiment.network, input_shape(experiment), num_classes, input_layout(experiment))


def plan(nodes: Sequence[Node], input_shape: Shape, num_classes: int, layout: str = "") -> Plan:
    """Finds every layer's shape and cost on the meta device, collecting what is wrong instead of stopping at it.

    Args:
        nodes: the network, in order. num_classes: of the data set. input_shape: of the scan.
        layout: of the scan; "" = what its number of sizes says (four: a series).
    """
    layout = layout or {1: "vector", 2: "sequence", 3: "maps", 4: "series"}[len(input_shape)]
    planning = Planning(input_shape, num_classes, layout)
    ids = [n.id for n in nodes]
    for node, feeds in zip(nodes, wires(nodes), strict=True):
        planning.add(node, feeds, ids)
    return Plan(input_shape, tuple(planning.planned), layout)


class Planning:
    """A plan that grows layer by layer; `planned` holds what is known so far. Arguments as for `plan`."""

    def __init__(self, input_shape: Shape, num_classes: int, layout: str) -> None:
        self.input_shape, self.num_classes = input_shape, num_classes
        self.planned: list[Planned] = []
        self._known: dict[str, tuple[Shape | None, str, tuple[Shape, ...]]] = {INPUT: (input_shape, layout, ())}
        self._sizes = {(0, d): input_shape[d] for d in SEEN[layout]}
        self._sees: dict[str, tuple[Field, ...]] = {INPUT: (identity(input_shape, axes=SEEN[layout]),)}

    def along(self, wire: str) -> Shape | None:
        """As `Plan.along`."""
        shape, _, taps = self._known.get(feeder(wire), (None, "", ()))
        return _tapped(shape, taps, wire)

    def add(self, node: Node, feeds: tuple[str, ...], ids: Sequence[str] = ()) -> None:
        """Plans the next layer. `ids`: of all layers, for the words about one that is fed from below."""
        known, sees, input_shape = self._known, self._sees, self.input_shape
        missing = [feeder(i) for i in feeds if feeder(i) not in known]
        untapped = [i for i in feeds if ":" in i and feeder(i) in known and not _has_tap(known[feeder(i)], i)]
        if feeds == (UNWIRED,):
            found = _Outcome(None, message="Nothing is connected to it yet.", where="inputs")
        elif untapped:
            found = _Outcome(None, message=_no_tap(untapped[0], known[feeder(untapped[0])][2]), where="inputs")
        elif missing:
            later = missing[0] in ids
            found = _Outcome(
                None,
                message=f"It is fed by {missing[0]!r}, "
                + ("which comes later: a layer can only be fed from above." if later else "which does not exist."),
                where="inputs",
            )
        else:
            sources = [known[feeder(i)] for i in feeds]
            shapes = [_tapped(shape, taps, i) for i, (shape, _, taps) in zip(feeds, sources, strict=True)]
            if any(s is None for s in shapes):
                found = _checked(node)
            else:
                found = _outcome(
                    node.name,
                    json.dumps(node.params, sort_keys=True),
                    tuple(cast(list[Shape], shapes)),
                    tuple(layout for _, layout, _ in sources),
                    self.num_classes,
                    input_shape if _asks_for_the_scan(node) else (),
                )
        if not found.message and node.id in _torch_words():
            words = f"A layer cannot be called {node.id!r}: torch uses the word itself. Choose another name."
            found = replace(found, message=words)
        known[node.id] = (found.shape, found.layout, found.taps)
        if found.fields:
            fed = [sees[feeder(i)][int(i.partition(":")[2] or 0) - 1] for i in feeds]
            sees[node.id] = tuple(composed(field, fed) for field in found.fields)
        self.planned.append(
            Planned(
                node.id,
                node.name,
                feeds,
                found.shape,
                found.parameters,
                found.flops,
                sum(map(prod, found.taps)) or (prod(found.shape) if found.shape else 0),
                found.message,
                found.where,
                found.value,
                found.layout,
                found.taps,
                found.each,
                sees[node.id][-1].reaches(self._sizes) if found.fields else (),
                found.lone,
            )
        )


def _asks_for_the_scan(node: Node) -> bool:
    return node.name in LAYERS and any(rule.startswith("scan") for rule in LAYERS[node.name].inferred.values())


@lru_cache(maxsize=1)
def _torch_words() -> frozenset[str]:
    """Names that a container of torch keeps for itself: a layer of such a name could not be held by it."""
    from torch import nn

    return frozenset(dir(nn.ModuleDict()))


def _has_tap(source: tuple[Shape | None, str, tuple[Shape, ...]], wire: str) -> bool:
    shape, _, taps = source
    return shape is None or _tapped(shape, taps, wire) is not None


def _no_tap(wire: str, taps: tuple[Shape, ...]) -> str:
    id, _, number = wire.partition(":")
    has = f"it has {len(taps)}" if taps else "it has only one output"
    return f"It is fed by output {number} of {id!r}, but {has}."


def _checked(node: Node) -> _Outcome:
    """What can be said of a layer whose input is unknown: only whether its settings are allowed."""
    try:
        settings(node)
    except (UnknownPart, ValueError) as error:
        return _refused(node.name, node.params, error)
    return _Outcome(None)


def _refused(name: str, params: dict[str, Any], error: Exception) -> _Outcome:
    """Locates a refused setting and proposes the nearest allowed value."""
    if name in LAYERS:
        for domain in LAYERS[name].params:
            if domain.name in params:
                try:
                    domain.parse(params[domain.name])
                except ValueError as fault:
                    near = domain.nearest(params[domain.name])
                    return _Outcome(None, message=str(fault), where=f"params.{domain.name}", value=near)
        unknown = [p for p in params if p not in LAYERS[name].defaults]
        if unknown:
            return _Outcome(None, message=str(error), where=f"params.{unknown[0]}")
    return _Outcome(None, message=str(error), where="name")


@lru_cache(maxsize=4096)
def _outcome(
    name: str, params_json: str, shapes: tuple[Shape, ...], layouts: tuple[str, ...], num_classes: int, scan: Shape
) -> _Outcome:
    """Shape and cost of one layer, cached: an edit replans only the layers whose input changed."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    node = Node(id="layer", name=name, params=json.loads(params_json))
    try:
        spec = LAYERS[name]
        settings(node)
    except (UnknownPart, ValueError) as error:
        return _refused(name, node.params, error)
    said = _fits(spec, shapes, layouts)
    if said:
        return said
    each = works_on_each(spec, layouts)
    item = shapes[0][1:] if each else shapes[0]
    unfit = misfit(spec, settings(node), item)
    if unfit:
        where = f"params.{unfit.setting}" if unfit.setting else ""
        return _Outcome(None, message=unfit.message, where=where, value=unfit.value)
    try:
        with torch.device("meta"):
            module = build(node, shapes, num_classes, trained=True, each=each, scan=scan).eval().requires_grad_(False)
            tensors = [torch.empty((2, *s)) for s in shapes]
        parameters = sum(p.numel() for p in module.parameters())
        counter, lone = FlopCounterMode(display=False), _watch_norms(module)
        with torch.no_grad():
            try:
                with counter, Tracker(tensors) as tracker:
                    out = module(*tensors)
            except NotImplementedError:
                # Some operators do not exist on the meta device: one real pass on the CPU tells, cached like the rest.
                if parameters > MAX_PASS_PARAMETERS or sum(map(prod, shapes)) > MAX_PASS_PARAMETERS:
                    raise ValueError(
                        "Its shape could only be told by computing it, and it is too large for that."
                    ) from None
                module = (
                    build(node, shapes, num_classes, trained=True, each=each, scan=scan).eval().requires_grad_(False)
                )
                tensors = [torch.zeros((2, *s)) for s in shapes]
                lone = _watch_norms(module)
                with counter, Tracker(tensors) as tracker:
                    out = module(*tensors)
    except (ValueError, RuntimeError, AssertionError, TypeError, AttributeError, IndexError) as error:
        return _explained(spec, item, len(shapes) > 1 or spec.inputs > 1, error)
    outs = out if isinstance(out, tuple) else (out,)
    if not outs or not all(isinstance(o, torch.Tensor) for o in outs):
        return _Outcome(None, message=f"{spec.title} puts out {type(out).__name__}, not tensors.")
    came = tuple(tuple(o.shape[1:]) for o in outs)
    layout = _layout(spec, came[-1], layouts[0], each)
    if not layout:
        kind = LAYOUTS["series" if layouts[0] == "series" else "sequence"]
        return _Outcome(
            None, message=f"{spec.title} cannot work on {kind}: what it gives for one item has no place there."
        )
    return _Outcome(
        came[-1],
        parameters,
        counter.get_total_flops() // 2,
        layout=layout,
        taps=came if isinstance(out, tuple) else (),
        each=each,
        fields=tuple(tracker.field(o) for o in outs),
        lone=bool(lone),
    )


def _watch_norms(module: "nn.Module") -> list[str]:
    """A list that fills, in a pass of two scans, with the batch norms that get one number of each channel of a scan.

    Left out are those that use what they have learned in training, too, as frozen ones do.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    found: list[str] = []

    def hook(name: str) -> Any:
        return lambda _, args: found.append(name) if args[0].numel() == 2 * args[0].shape[1] else None

    for name, part in module.train().named_modules():
        if isinstance(part, _BatchNorm) and part.training:
            part.register_forward_pre_hook(hook(name))
    module.eval()
    return found


_PER_ITEM = {"series": "maps", "sequence": "vector"}
"""What one item of a series or sequence is."""


def works_on_each(spec: LayerSpec, layouts: Sequence[str]) -> bool:
    """Says whether a layer fed by these layouts is applied to every slice of a series, or step of a sequence, alone."""
    whole = not spec.takes or all(layout in spec.takes for layout in layouts)
    return not whole and len(set(layouts)) == 1 and _PER_ITEM.get(layouts[0]) in spec.takes


def _layout(spec: LayerSpec, shape: Shape, came: str, each: bool) -> str:
    """What the dimensions of a result mean; "" where no layout fits."""
    if each:
        return {2: "sequence", 4: "series"}.get(len(shape), "")
    if len(shape) == 4:
        return spec.gives or (came if came in ("series", "volume") else "volume")
    return {1: "vector", 2: "sequence", 3: "maps"}.get(len(shape), "")


def _fits(spec: LayerSpec, shapes: tuple[Shape, ...], layouts: tuple[str, ...]) -> _Outcome | None:
    """Says it when number or kind of inputs do not suit the layer."""
    most = spec.most or (1 if spec.inputs == 1 else len(shapes))
    if len(shapes) > most:
        words = "one input" if most == 1 else f"at most {most} inputs"
        return _Outcome(None, message=f"{spec.title} takes {words}; it has {len(shapes)}.", where="inputs")
    if spec.inputs > 1 and len(shapes) < spec.inputs:
        return _Outcome(
            None, message=f"{spec.title} joins two or more layers; choose what else feeds it.", where="inputs"
        )
    if not spec.takes or works_on_each(spec, layouts):
        return None
    for shape, layout in zip(shapes, layouts, strict=True):
        if layout not in spec.takes:
            wanted = " or ".join(LAYOUTS[k] for k in spec.takes)
            return _Outcome(
                None, message=f"{spec.title} expects {wanted}; it gets {LAYOUTS[layout]} of shape {show(shape)}."
            )
    return None


def _explained(spec: LayerSpec, shape: Shape, several: bool, error: Exception) -> _Outcome:
    """What torch or a block complained about, as a sentence: what `builder.fits` does not foresee."""
    if several:
        return _Outcome(None, message=str(error), where="inputs")
    first = str(error).split("\n")[0][:200].rstrip(".")
    return _Outcome(None, message=f"{spec.title} cannot work on {show(shape)}: {first}.")


def show(shape: Shape) -> str:
    """Returns a shape for people: (16, 32, 32) -> "16 x 32 x 32"."""
    return " x ".join(map(str, shape))


def arguments(
    node: Node, shapes: Sequence[Shape], num_classes: int, trained: bool = False, scan: Shape = ()
) -> dict[str, Any]:
    """Returns every keyword argument of a node's target for inputs of `shapes`: inferred ones, then its settings.

    Args:
        trained: its initial weights do not matter (they will be loaded, or only its shape is wanted).
        scan: shape of the scan (of the series, or the volume), for layers that ask for it.
    Raises:
        UnknownPart, ValueError: what `settings` refuses.
    """
    spec = LAYERS[node.name]
    shape = shapes[0]
    stepwise = len(shape) == 2  # a sequence: its features lie last
    rules: dict[str, Any] = {
        "channels": shape[-1] if stepwise else shape[0],
        "features": shape[-1],
        "size": shape[1] if len(shape) > 1 else 1,
        "axis": 2 if stepwise else 1,
        "classes": num_classes,
        "steps": shape[0],
        "channels_each": tuple(s[0] for s in shapes),
        "sizes": tuple(s[-2:] for s in shapes),
        "extents": tuple(s[1:] for s in shapes),
        "dimensions": len(shape) - 1,
    }
    if len(scan) >= 3:
        rules |= {"scan_channels": scan[-3], "scan_size": scan[-2:], "scan_extent": scan[1:]}
    chosen = {**settings(node), **spec.untrained} if trained else located(spec, settings(node))
    return {**{name: rules[rule] for name, rule in spec.inferred.items()}, **spec.fixed, **chosen}


def build(
    node: Node, shapes: Sequence[Shape], num_classes: int, trained: bool = False, each: bool = False, scan: Shape = ()
) -> "nn.Module":
    """Builds the module of one node for inputs of `shapes` (batch left out); `trained`: see `arguments`.

    Args:
        each: it is to work on every item of its inputs, whose first size is the number of items (`Planned.each`).
        scan: see `arguments`.
    Raises:
        UnknownPart, ValueError, RuntimeError: what `settings` or the layer itself refuses.
    """
    from builder.blocks.network import PerItem

    items = [s[1:] for s in shapes] if each else shapes
    module = cast("nn.Module", LAYERS[node.name].load()(**arguments(node, items, num_classes, trained, scan)))
    return PerItem(module) if each else module


def assemble_of(
    experiment: Experiment, num_classes: int, *, seed: int | None = None, trained: bool = False
) -> "Network":
    """Builds an experiment's network for what it sees: `assemble` with `input_shape` and `input_layout`, beginning with
    the experiment's stored weights where it has some (not where `trained`).

    Raises:
        ValueError: as `assemble`; WeightsError: the stored weights are gone, damaged, or of another network.
    """
    net = assemble(
        experiment.network,
        input_shape(experiment),
        num_classes,
        input_layout(experiment),
        seed=seed,
        trained=trained,
        init=experiment.training.init,
    )
    if experiment.weights and not trained:
        begin(net, experiment.weights)
    return net


def beginning_of(experiment: Experiment, num_classes: int) -> Beginning:
    """How far the experiment's stored weights go in its network.

    Raises:
        ValueError: as `assemble`; WeightsError: they are not on this machine, or damaged.
    """
    return beginning(dict(_sizes(experiment.replace("training", Training()).dumps(), num_classes)), experiment.weights)


@lru_cache(maxsize=32)
def _sizes(document: str, num_classes: int) -> tuple[tuple[str, Shape], ...]:
    """Sizes of every weight of a network, by name."""
    import torch

    with torch.device("meta"):
        net = assemble_of(Experiment.loads(document), num_classes, trained=True)
    return tuple((name, tuple(tensor.shape)) for name, tensor in net.state_dict().items())


def assemble(
    nodes: Sequence[Node],
    input_shape: Shape,
    num_classes: int,
    layout: str = "",
    *,
    seed: int | None = None,
    trained: bool = False,
    init: str = "usual",
) -> "Network":
    """Builds the whole network.

    Args:
        seed: fixes the initial weights without touching the caller's random state. trained: see `build`.
        init: the rule by which they are drawn (`blocks.initial.begin`), "usual": each layer by its own. Backbones and
            heads always go by their own: theirs are chosen with care, or learned already.
    Returns:
        a module: (B, *input_shape) float -> output of the last node; `.layers[id]` is the module of node `id`.
    Raises:
        ValueError: the network cannot be planned; all sentences at once.
    """
    import torch

    from builder.blocks.initial import begin
    from builder.blocks.network import Network

    planned = plan(nodes, input_shape, num_classes, layout)
    wrong = [f"{n.id}: {n.message}" for n in planned.nodes if n.message]
    if wrong or not nodes:
        raise ValueError(" ".join(wrong) or "The network has no layers.")
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        layers = {
            n.id: build(n, [cast(Shape, planned.along(i)) for i in p.inputs], num_classes, trained, p.each, input_shape)
            for n, p in zip(nodes, planned.nodes, strict=True)
        }
        if init != "usual" and not trained:
            for node in nodes:
                if LAYERS[node.name].group not in ("Backbones", "Heads"):
                    begin(layers[node.id], init)
    return Network(layers, {p.id: p.inputs for p in planned.nodes})
