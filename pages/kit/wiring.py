"""The network as a graph, and the edits of it as small messages: pure functions from a document to a document.

The document is a list in which a layer without `inputs` is fed by the one above. A canvas thinks in wires. `unfold`
tells every layer's wires, `fold` writes them back as a valid list: each layer below what feeds it, as little moved as
possible. A canvas sends edits (`Edit`), never graphs: each is applied to the newest document, so that what another tab
or a form changed meanwhile stays. `components/javascript/network/graph.js` does the same in the browser, at once.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from builder.catalog import LayerSpec
from builder.parts.layers import LAYERS
from builder.spec import INPUT, UNWIRED, Experiment, Node, SpecError, Value, feeder

__all__ = ["Block", "Edit", "Places", "Refused", "added", "apply", "fold", "read", "renamed", "said", "unfold"]

Feeds = Mapping[str, tuple[str, ...]]
_FAR = 200_000.0


class Refused(ValueError):
    """An edit that cannot be. Its text is a sentence for people."""


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


Far = Annotated[float, Field(ge=-_FAR, le=_FAR)]
Point = tuple[Far, Far]
Id = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$")]
Ref = Annotated[str, Field(max_length=48)]
"""What feeds a layer: "input", an id, or "id:k" for its k-th tap."""


class Block(_Plain):
    """Layers that belong together under a name; closed, they are drawn as one."""

    id: Id
    name: Annotated[str, Field(min_length=1, max_length=60)]
    ids: tuple[Id, ...]
    closed: bool = False


class Places(_Plain):
    """How a network lies on the canvas. Not part of the experiment: it changes no result.

    Attributes:
        moved: offset (x, y) in px from where the layout puts a layer, for those that were dragged.
        loose: (x, y) where layers were dropped that nothing feeds yet.
        blocks: what was put together.
    """

    moved: dict[str, Point] = {}
    loose: dict[str, Point] = {}
    blocks: Annotated[tuple[Block, ...], Field(max_length=500)] = ()

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Places:
        """What a draft keeps; nothing special where that cannot be understood."""
        try:
            return cls.model_validate(kept)
        except ValidationError:
            return cls()


class Add(_Plain):
    """A new layer, fed by `feeds`; for each (target, source) of `takes` it stands in for that wire's source."""

    op: Literal["add"]
    id: Id
    name: Annotated[str, Field(min_length=1, max_length=80)]
    feeds: tuple[Ref, ...] = ()
    takes: tuple[tuple[Ref, Ref], ...] = ()
    params: dict[str, Value] = {}
    like: str = ""
    at: Point | None = None
    block: str = ""


class Remove(_Plain):
    """Layers and wires (source, target) go; what a layer fed is fed by what fed it."""

    op: Literal["remove"]
    ids: tuple[str, ...] = ()
    wires: tuple[tuple[Ref, Ref], ...] = ()


class Wire(_Plain):
    """`source` feeds `target`, too; instead of the source `instead` where there is one."""

    op: Literal["wire"]
    source: Ref
    target: str
    instead: Ref | None = None


class Unwire(_Plain):
    """`source` no longer feeds `target`."""

    op: Literal["unwire"]
    source: Ref
    target: str


class Place(_Plain):
    """Layers were dragged: their offsets from the layout."""

    op: Literal["place"]
    moved: dict[str, Point]


class Tidy(_Plain):
    """Everything back to where the layout puts it."""

    op: Literal["tidy"]


class Bundle(_Plain):
    """Layers become a block."""

    op: Literal["block"]
    id: Id
    name: Annotated[str, Field(min_length=1, max_length=60)]
    ids: tuple[str, ...]
    closed: bool = False


class Unbundle(_Plain):
    """Blocks are no more; their layers stay."""

    op: Literal["unblock"]
    ids: tuple[str, ...]


class Close(_Plain):
    """Blocks are closed or opened."""

    op: Literal["close"]
    ids: tuple[str, ...]
    closed: bool


class Together(_Plain):
    """Several edits that are one step of undo."""

    op: Literal["together"]
    ops: Annotated[tuple[Edit, ...], Field(min_length=1, max_length=2000)]
    words: Annotated[str, Field(max_length=80)] = ""


Edit = Annotated[
    Add | Remove | Wire | Unwire | Place | Tidy | Bundle | Unbundle | Close | Together, Field(discriminator="op")
]
Together.model_rebuild()
_EDIT: TypeAdapter[Any] = TypeAdapter(Edit)


def read(told: Any) -> Any:
    """Returns the edit that a browser told; raises Refused for anything else."""
    try:
        return _EDIT.validate_python(told)
    except ValidationError:
        raise Refused("The page sent something that is no edit.") from None


# -- list and graph ----------------------------------------------------------------------------------------------------


def unfold(nodes: Sequence[Node]) -> dict[str, tuple[str, ...]]:
    """Returns what feeds each layer: () where nothing does."""
    found = {}
    for k, node in enumerate(nodes):
        feeds = node.inputs or ((nodes[k - 1].id,) if k else (INPUT,))
        found[node.id] = tuple(f for f in feeds if f != UNWIRED)
    return found


def fold(nodes: Sequence[Node], feeds: Feeds) -> tuple[Node, ...]:
    """Returns the layers as a document lists them: each below what feeds it, its wires written where they are not the
    layer above.

    `nodes` is the order to keep where it can be kept. The last one stays the network's output; where the scan does not
    reach it, the last end that the scan reaches becomes the output.
    """
    by_id = {n.id: n for n in nodes}
    found: list[Node] = []
    for id in _ordered(list(by_id), feeds):
        node, above = by_id[id], found[-1].id if found else INPUT
        wanted: tuple[str, ...] = feeds[id] or (UNWIRED,)
        if wanted == (above,):
            wanted = ()
        found.append(node if node.inputs == wanted else node.model_copy(update={"inputs": wanted}))
    return tuple(found)


def _below(feeds: Feeds, start: str) -> set[str]:
    """All layers that `start` reaches along wires."""
    next: dict[str, list[str]] = {}
    for id, refs in feeds.items():
        for ref in refs:
            next.setdefault(feeder(ref), []).append(id)
    seen: set[str] = set()
    waiting = list(next.get(start, ()))
    while waiting:
        id = waiting.pop()
        if id not in seen:
            seen.add(id)
            waiting.extend(next.get(id, ()))
    return seen


def _ordered(ids: list[str], feeds: Feeds) -> list[str]:
    place = {id: k for k, id in enumerate(ids)}
    if not ids:
        return []
    last = ids[-1]
    rooted = _below(feeds, INPUT)
    if last not in rooted:
        fed = {feeder(ref) for refs in feeds.values() for ref in refs}
        last = next((id for id in reversed(ids) if id in rooted and id not in fed), last)
    waits = {id: {feeder(f) for f in feeds[id]} & place.keys() for id in ids}
    heirs: dict[str, list[str]] = {}
    for id, needs in waits.items():
        for need in needs:
            heirs.setdefault(need, []).append(id)

    def rank(id: str) -> tuple[bool, int, str]:
        return id == last, place[id], id

    ready = [rank(id) for id in ids if not waits[id]]
    heapq.heapify(ready)
    left, found = dict.fromkeys(ids), []
    while left:
        id = heapq.heappop(ready)[2] if ready else next(iter(left))  # a document's own loop: as it stands
        if id not in left:
            continue
        del left[id]
        found.append(id)
        for heir in heirs.get(id, ()):
            waits[heir].discard(id)
            if not waits[heir] and heir in left:
                heapq.heappush(ready, rank(heir))
    return found


# -- edits -------------------------------------------------------------------------------------------------------------


def _most(name: str) -> int:
    """How many wires may go into a layer."""
    spec = LAYERS[name] if name in LAYERS else None  # noqa: SIM401 (a miss would look for near names)
    if not isinstance(spec, LayerSpec):
        return 10_000
    return spec.most or (1 if spec.inputs == 1 else 10_000)


def _title(nodes: Sequence[Node], id: str) -> str:
    if id == INPUT:
        return "The scan"
    name = next((n.name for n in nodes if n.id == id), id)
    return LAYERS[name].title if name in LAYERS else name


def apply(experiment: Experiment, places: Places, edit: Any) -> tuple[Experiment, Places]:
    """Returns the document and the places after one edit.

    Raises:
        Refused: in words, where the edit cannot be made (any more).
    """
    nodes, feeds = list(experiment.network), unfold(experiment.network)
    nodes, feeds, places = _applied(nodes, feeds, places, edit)
    network = fold(nodes, feeds)
    if network == experiment.network:
        return experiment, places
    try:
        return experiment.replace("network", network), places
    except SpecError as error:
        raise Refused(str(error)) from None


_State = tuple[list[Node], dict[str, tuple[str, ...]], Places]


def _applied(nodes: list[Node], feeds: dict[str, tuple[str, ...]], places: Places, edit: Any) -> _State:
    if isinstance(edit, Together):
        for one in edit.ops:
            nodes, feeds, places = _applied(nodes, feeds, places, one)
        return nodes, feeds, places
    if isinstance(edit, Add):
        nodes, feeds, places = _add(nodes, feeds, places, edit)
    elif isinstance(edit, Remove):
        nodes, feeds, places = _remove(nodes, feeds, places, edit)
    elif isinstance(edit, Wire):
        nodes, feeds, places = _wire(nodes, feeds, places, edit)
    elif isinstance(edit, Unwire):
        if edit.target in feeds:
            feeds = feeds | {edit.target: tuple(f for f in feeds[edit.target] if f != edit.source)}
    else:
        return nodes, feeds, _placed(nodes, places, edit)
    by_id = {n.id: n for n in nodes}
    return [by_id[id] for id in _ordered(list(by_id), feeds)], feeds, places


def _add(nodes: list[Node], feeds: dict[str, tuple[str, ...]], places: Places, edit: Add) -> _State:
    if edit.id in feeds or edit.id == INPUT:
        raise Refused(f"There already is a layer {edit.id}.")
    like = next((n for n in nodes if n.id == edit.like), None)
    params = like.params if like is not None and like.name == edit.name else edit.params
    node = Node(id=edit.id, name=edit.name, params=params)
    known = [f for f in dict.fromkeys(edit.feeds) if feeder(f) == INPUT or feeder(f) in feeds][: _most(edit.name)]
    ids = [n.id for n in nodes]
    at = max((ids.index(feeder(f)) + 1 if feeder(f) != INPUT else 0 for f in known), default=max(0, len(ids) - 1))
    for target, source in edit.takes:
        if target in feeds and source in feeds[target] and not _leads(feeds, target, known):
            feeds = feeds | {target: tuple(dict.fromkeys(edit.id if f == source else f for f in feeds[target]))}
    nodes = [*nodes[:at], node, *nodes[at:]]
    if edit.at is not None and not known:
        places = places.model_copy(update={"loose": {**places.loose, edit.id: edit.at}})
    if edit.block:
        blocks = tuple(
            b.model_copy(update={"ids": (*b.ids, edit.id)}) if b.id == edit.block else b for b in places.blocks
        )
        places = places.model_copy(update={"blocks": blocks})
    return nodes, feeds | {edit.id: tuple(known)}, places


def _leads(feeds: Feeds, start: str, refs: Iterable[str]) -> bool:
    """Says whether one of these wires comes from `start` or from what it reaches."""
    reached = _below(feeds, start) | {start}
    return any(feeder(ref) in reached for ref in refs)


def _remove(nodes: list[Node], feeds: dict[str, tuple[str, ...]], places: Places, edit: Remove) -> _State:
    names = {n.id: n.name for n in nodes}
    gone = [id for id in dict.fromkeys(edit.ids) if id in feeds]
    cut = set(edit.wires)
    feeds = {id: tuple(f for f in refs if (f, id) not in cut) for id, refs in feeds.items()}
    for id in gone:
        heal = feeds.pop(id)
        for heir, refs in feeds.items():
            if any(feeder(f) == id for f in refs):
                mended = [m for f in refs for m in (heal if feeder(f) == id else (f,))]
                feeds[heir] = tuple(dict.fromkeys(mended))[: _most(names[heir])]
    nodes = [n for n in nodes if n.id in feeds]
    blocks = tuple(
        b.model_copy(update={"ids": kept})
        for b in places.blocks
        if len(kept := tuple(i for i in b.ids if i in feeds)) > 1
    )
    left = {
        "moved": {i: p for i, p in places.moved.items() if i not in gone},
        "loose": {i: p for i, p in places.loose.items() if i not in gone},
        "blocks": blocks,
    }
    return nodes, feeds, places.model_copy(update=left)


def _wire(nodes: list[Node], feeds: dict[str, tuple[str, ...]], places: Places, edit: Wire) -> _State:
    source, target = feeder(edit.source), edit.target
    if (source != INPUT and source not in feeds) or (target not in feeds and target != INPUT):
        raise Refused("This layer is gone: it was deleted meanwhile.")
    if target == INPUT:
        raise Refused("Nothing goes into the scan: it is where the network begins.")
    title = _title(nodes, target)
    if source == target:
        raise Refused(f"{title} cannot feed itself.")
    if source in _below(feeds, target):
        raise Refused(f"That would be a loop: {_title(nodes, source)} already gets what {title} puts out.")
    others = [f for f in feeds[target] if f != edit.instead]
    if edit.source in others:
        raise Refused(f"{title} already gets this.")
    most = _most(next(n.name for n in nodes if n.id == target))
    if len(others) >= most:
        if most > 1:
            raise Refused(f"{title} takes at most {most} inputs and has them.")
        raise Refused(
            f"{title} takes one input and has one. Join layers with Add or Concatenate, or drag the end of its wire."
        )
    if edit.instead in feeds[target]:
        refs = tuple(edit.source if f == edit.instead else f for f in feeds[target])
    else:
        refs = (*feeds[target], edit.source)
    if target in places.loose:
        places = places.model_copy(
            update={
                "loose": {i: p for i, p in places.loose.items() if i != target},
                "moved": {i: p for i, p in places.moved.items() if i != target},
            }
        )
    return nodes, feeds | {target: refs}, places


def _placed(nodes: list[Node], places: Places, edit: Any) -> Places:
    if isinstance(edit, Place):
        known = {n.id for n in nodes} | {INPUT} | {b.id for b in places.blocks}
        moved = {i: p for i, p in edit.moved.items() if i in known}
        return places.model_copy(update={"moved": {**places.moved, **moved}})
    if isinstance(edit, Tidy):
        return places.model_copy(update={"moved": {}, "loose": {}})
    if isinstance(edit, Bundle):
        ids = tuple(n.id for n in nodes if n.id in edit.ids)
        if len(ids) < 2:
            raise Refused("A block needs at least two layers.")
        others = (
            b.model_copy(update={"ids": kept})
            for b in places.blocks
            if b.id != edit.id and len(kept := tuple(i for i in b.ids if i not in ids)) > 1
        )
        made = Block(id=edit.id, name=edit.name, ids=ids, closed=edit.closed)
        return places.model_copy(update={"blocks": (*others, made)})
    if isinstance(edit, Unbundle):
        return places.model_copy(update={"blocks": tuple(b for b in places.blocks if b.id not in edit.ids)})
    changed = tuple(b.model_copy(update={"closed": edit.closed}) if b.id in edit.ids else b for b in places.blocks)
    return places.model_copy(update={"blocks": changed})


# -- names and words ---------------------------------------------------------------------------------------------------


def renamed(told: Any, names: Mapping[str, str]) -> Any:
    """Returns a told edit with the ids that were given anew meanwhile; `names`: old id -> new id."""
    if not names:
        return told
    if isinstance(told, str):
        head, colon, tap = told.partition(":")
        return names.get(head, head) + colon + tap
    if isinstance(told, list | tuple):
        return [renamed(item, names) for item in told]
    if isinstance(told, Mapping):
        keeps = ("op", "name", "words", "params", "shown")
        return {
            (names.get(key, key) if isinstance(key, str) else key): item if key in keeps else renamed(item, names)
            for key, item in told.items()
        }
    return told


def added(edit: Any) -> Iterable[Add]:
    """The layers that an edit adds."""
    if isinstance(edit, Add):
        yield edit
    elif isinstance(edit, Together):
        for one in edit.ops:
            yield from added(one)


def said(edit: Any) -> str:
    """Returns an edit in words, for the list of steps that undo shows."""
    if isinstance(edit, Add):
        return f"add {(LAYERS[edit.name].title if edit.name in LAYERS else edit.name).lower()}"
    if isinstance(edit, Remove):
        if len(edit.ids) == 1:
            return f"delete {edit.ids[0]}"
        return f"delete {len(edit.ids)} layers" if edit.ids else "delete a wire"
    if isinstance(edit, Wire):
        return f"feed {edit.target} from {'the scan' if edit.source == INPUT else edit.source}"
    if isinstance(edit, Unwire):
        return f"take {edit.source} from {edit.target}"
    if isinstance(edit, Together):
        return edit.words or f"{len(edit.ops)} changes"
    words = {"place": "move", "tidy": "tidy up", "block": "make a block", "unblock": "undo a block"}
    return words.get(edit.op, "open a block" if not getattr(edit, "closed", False) else "close a block")
