"""A network as a drawing: its layers, or its computational graph forward and back, as one SVG that stands alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from xml.sax.saxutils import escape

from builder import network
from builder.graph import LOSS, Graph, Operation, trace
from builder.layered import Arranged, Point, arrange
from builder.parts.layers import LAYERS
from builder.spec import INPUT, Experiment, Node, feeder

__all__ = ["Drawing", "Mark", "graph_drawing", "graph_svg", "network_drawing", "network_svg", "unrolled_svg"]

_FONT = "Inter, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
_MONO = "'JetBrains Mono', Menlo, Consolas, monospace"
_PAD = 14.0


@dataclass(frozen=True)
class _Ink:
    """The colours of a drawing."""

    paper: str
    text: str
    faint: str
    line: str
    panel: str
    forward: str
    backward: str
    weight: str
    forward_fill: str
    backward_fill: str
    weight_fill: str
    wrong: str


_LIGHT = _Ink(
    "#ffffff",
    "#1a2233",
    "#667085",
    "#cfd6e4",
    "#f6f8fc",
    "#2456d6",
    "#c26a07",
    "#0e8a5f",
    "#eaf0ff",
    "#fdf1e0",
    "#e3f6ee",
    "#c8322b",
)
_DARK = _Ink(
    "#0f131b",
    "#e8ecf4",
    "#98a2b6",
    "#363f52",
    "#171d29",
    "#6f9bff",
    "#f0a24a",
    "#3fc796",
    "#1b2950",
    "#3a2a12",
    "#123528",
    "#ff6c6c",
)
_GROUPS = ("#2456d6", "#0f8aa6", "#6d4bd1", "#0e8a5f", "#c26a07", "#d1477a", "#5b6475", "#8a6d00", "#4f7d2a", "#a0522d")
"""One colour for each group of the catalog, in its order."""


@dataclass(frozen=True)
class Mark:
    """A box of the drawing: where its middle lies, and what is said of it."""

    x: float
    y: float
    words: str


@dataclass(frozen=True)
class Drawing:
    """An SVG with its size in px and its boxes."""

    svg: str
    width: float
    height: float
    marks: tuple[Mark, ...]


@dataclass
class _Sheet:
    ink: _Ink
    parts: list[str] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    def box(
        self, x: float, y: float, width: float, height: float, fill: str, stroke: str, radius: float = 8, kind: str = ""
    ) -> None:
        named = f' class="{kind}"' if kind else ""
        self.parts.append(
            f'<rect{named} x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius:g}" '
            f'fill="{fill}" stroke="{stroke}" stroke-width="1.2"/>'
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 12,
        colour: str = "",
        weight: int = 400,
        middle: bool = False,
        mono: bool = False,
    ) -> None:
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" font-weight="{weight}" '
            f'font-family="{escape(_MONO if mono else _FONT, {chr(34): "&quot;"})}" '
            f'fill="{colour or self.ink.text}"{" text-anchor=" + chr(34) + "middle" + chr(34) if middle else ""}>'
            f"{escape(words)}</text>"
        )

    def way(
        self, points: Sequence[Point], colour: str, width: float = 1.8, arrow: str = "", dashed: bool = False
    ) -> None:
        """A smooth line through points, upright at each of them."""
        (x, y), *rest = points
        said = [f"M{x:.1f},{y:.1f}"]
        for nx, ny in rest:
            middle = (y + ny) / 2
            said.append(f"C{x:.1f},{middle:.1f} {nx:.1f},{middle:.1f} {nx:.1f},{ny:.1f}")
            x, y = nx, ny
        self.parts.append(
            f'<path d="{" ".join(said)}" fill="none" stroke="{colour}" stroke-width="{width:g}"'
            + (f' marker-end="url(#{arrow})"' if arrow else "")
            + "/>"
        )

    def done(self, width: float, height: float, title: str) -> Drawing:
        ink = self.ink
        arrows = "".join(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0,0.6 L7.4,4 L0,7.4 z" fill="{colour}"/></marker>'
            for name, colour in (
                ("to", ink.forward),
                ("back", ink.backward),
                ("grad", ink.weight),
                ("plain", ink.faint),
            )
        )
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
            f'height="{height:.0f}" role="img"><title>{escape(title)}</title><defs>{arrows}</defs>'
            f'<rect width="100%" height="100%" fill="{ink.paper}"/>{"".join(self.parts)}</svg>\n'
        )
        return Drawing(svg, width, height, tuple(self.marks))


def _wide(words: str, size: float = 12, mono: bool = False) -> float:
    """About how wide a text is, in px."""
    return len(words) * size * (0.62 if mono else 0.56)


# -- the layers --------------------------------------------------------------------------------------------------------


def network_svg(experiment: Experiment, num_classes: int = 2, *, dark: bool = False) -> str:
    """An experiment's network as an SVG: a box a layer, with settings, shape and parameters, and every wire."""
    return network_drawing(experiment, num_classes, dark=dark).svg


def network_drawing(experiment: Experiment, num_classes: int = 2, *, dark: bool = False) -> Drawing:
    """`network_svg` with its size and boxes. A network that does not fit together is drawn too, faults in words."""
    ink = _DARK if dark else _LIGHT
    plan = network.plan_of(experiment, num_classes)
    lines: dict[str, tuple[str, str, str]] = {INPUT: ("Scan", "", network.show(plan.input))}
    groups = {INPUT: ""}
    faults = {n.id for n in plan.nodes if n.message}
    for node, planned in zip(experiment.network, plan.nodes, strict=True):
        shape = network.show(planned.shape) if planned.shape else planned.message or "no shape"
        learned = f" · {planned.parameters:,} parameters" if planned.parameters else ""
        title = LAYERS[node.name].title if node.name in LAYERS else node.name
        lines[node.id] = (title, _settings(node), f"{shape}{learned}"[:90])
        groups[node.id] = LAYERS[node.name].group if node.name in LAYERS else ""
    sizes = {
        id: (
            max(_wide(f"{a}   {id}", 13), _wide(b, 11), _wide(c, 11, True)) + 2 * _PAD + 8,
            62.0 if b else 46.0,
        )
        for id, (a, b, c) in lines.items()
    }
    edges = [(feeder(wire), n.id) for n in plan.nodes for wire in n.inputs if feeder(wire) in sizes]
    placed = arrange(sizes, edges)
    sheet = _Sheet(ink)
    for a, b in dict.fromkeys(edges):
        (ax, ay), (bx, by) = placed.places[a], placed.places[b]
        start, end = (ax + sizes[a][0] / 2, ay + sizes[a][1]), (bx + sizes[b][0] / 2, by - 1)
        skip = bool(placed.bends[a, b])
        colour = ink.backward if skip else ink.faint
        sheet.way(_moved([start, *placed.bends[a, b], end]), colour, 2 if skip else 1.6, "back" if skip else "plain")
    names = list(LAYERS.groups)
    for id, (title, settings, shape) in lines.items():
        x, y = (v + _PAD for v in placed.places[id])
        width, height = sizes[id]
        group = groups[id]
        colour = _GROUPS[names.index(group) % len(_GROUPS)] if group in names else ink.faint
        wrong = id in faults
        sheet.box(x, y, width, height, ink.panel, ink.wrong if wrong else ink.line, kind="wrong" if wrong else "layer")
        sheet.parts.append(
            f'<rect x="{x:.1f}" y="{y + 6:.1f}" width="4" height="{height - 12:.1f}" rx="2" fill="{colour}"/>'
        )
        sheet.text(x + _PAD, y + 20, title, size=13, weight=650)
        if id != INPUT:
            sheet.text(x + _PAD + _wide(title, 13.6) + 8, y + 20, id, size=10.5, colour=ink.faint, mono=True)
        if settings:
            sheet.text(x + _PAD, y + 36, settings, size=11, colour=ink.faint)
        sheet.text(x + _PAD, y + height - 11, shape, size=11, mono=True)
        sheet.marks.append(Mark(x + width / 2, y + height / 2, f"{title}: {shape}"))
    title = f"Network {experiment.name}"
    return sheet.done(placed.width + 2 * _PAD, placed.height + 2 * _PAD, title)


def _settings(node: Node) -> str:
    """The first setting and those that differ from the default, in a few words."""
    if node.name not in LAYERS:
        return ""
    said = []
    for number, domain in enumerate(LAYERS[node.name].params):
        value = node.params.get(domain.name, domain.default)
        if number == 0 or value != domain.default:
            shown = f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
            shown = {"True": "yes", "False": "no"}.get(shown, shown)
            said.append(f"{domain.label.lower()} {shown}")
    words = ", ".join(said)
    return words if len(words) <= 64 else words[:61] + "..."


def _moved(points: Sequence[Point]) -> list[Point]:
    return [(x + _PAD, y + _PAD) for x, y in points]


# -- a recurrent layer, unrolled ---------------------------------------------------------------------------------------


def unrolled_svg(title: str, memory: Sequence[float], truncated: int = 0, *, dark: bool = False) -> str:
    """A recurrent layer with a copy for each step of its sequence: the state goes right, the gradient comes back left.

    Args:
        memory: for each step how much the last state hears of it (any unit); the orange arrows are as thick.
        truncated: the gradient is cut every so many steps, counted from the end; 0 = never.
    """
    ink = _DARK if dark else _LIGHT
    num, most = len(memory), max(memory, default=0.0) or 1.0
    first = max(0, num - UNROLLED)
    steps = list(range(first, num))
    width, side, left = 92.0, 64.0, 74.0 if first else 30.0
    sheet = _Sheet(ink)
    sheet.text(_PAD, 22, f"{title}, unrolled over {num} steps", size=13, weight=650)
    sheet.text(_PAD, 40, "state, forward", size=11, colour=ink.forward)
    sheet.text(_PAD + 92, 40, "gradient, back through time", size=11, colour=ink.backward)
    top = 92.0
    if first:
        sheet.text(_PAD, top + side / 2 + 4, f"{first} more", size=11, colour=ink.faint)
    for place, step in enumerate(steps):
        x = left + place * width
        middle = x + side / 2
        sheet.box(x, top, side, side, ink.forward_fill, ink.forward, 10)
        sheet.text(middle, top + 28, title, size=11.5, weight=600, middle=True)
        sheet.text(middle, top + 45, f"step {step + 1}", size=10.5, colour=ink.faint, middle=True)
        sheet.parts.append(
            f'<path d="M{middle:.1f},{top + side + 36:.1f} L{middle:.1f},{top + side + 2:.1f}" stroke="{ink.forward}" '
            f'stroke-width="1.8" marker-end="url(#to)"/>'
        )
        sheet.box(middle - 26, top + side + 36, 52, 26, ink.panel, ink.line)
        sheet.text(middle, top + side + 53, f"x{step + 1}", size=11, middle=True, mono=True)
        share = memory[step] / most
        sheet.text(
            middle, top + side + 82, f"{100 * share:.0f} %", size=11, weight=600, colour=ink.backward, middle=True
        )
        sheet.marks.append(Mark(middle, top + side / 2, f"step {step + 1}: {100 * share:.1f} %"))
        if step == num - 1:
            continue
        ahead, back = top + side * 0.66, top + side * 0.3
        sheet.parts.append(
            f'<path d="M{x + side:.1f},{ahead:.1f} L{x + width - 2:.1f},{ahead:.1f}" stroke="{ink.forward}" '
            f'stroke-width="1.8" marker-end="url(#to)"/>'
        )
        cut = truncated > 0 and (num - 1 - step) % truncated == 0
        if cut:
            sheet.text(x + side + (width - side) / 2, back + 4, "✕", size=13, colour=ink.wrong, middle=True)
        else:
            thick = 0.8 + 5.2 * share
            sheet.parts.append(
                f'<path d="M{x + width - 2:.1f},{back:.1f} L{x + side + 3:.1f},{back:.1f}" stroke="{ink.backward}" '
                f'stroke-width="{thick:.2f}" stroke-opacity="{0.35 + 0.65 * share:.2f}"/>'
            )
    end = left + (len(steps) - 1) * width + side / 2 if steps else left
    sheet.parts.append(
        f'<path d="M{end:.1f},{top:.1f} L{end:.1f},{top - 18:.1f}" stroke="{ink.forward}" stroke-width="1.8" '
        f'marker-end="url(#to)"/>'
    )
    sheet.text(end, top - 26, "last state", size=11, weight=600, middle=True)
    return sheet.done(left + len(steps) * width + _PAD, top + side + 96, f"{title} unrolled").svg


UNROLLED = 14
"""Steps that are drawn; of longer sequences the last ones."""


# -- the computational graph -------------------------------------------------------------------------------------------


def graph_svg(experiment: Experiment, num_classes: int = 2, *, detail: str = "operations", dark: bool = False) -> str:
    """The computational graph of an experiment's network as an SVG.

    Args:
        detail: "operations" (layers of more than forty are drawn as one) or "layers" (one box a layer, each way).
    Raises:
        ValueError: the network cannot be planned; all sentences at once.
    """
    return graph_drawing(trace(experiment, num_classes), detail=detail, dark=dark).svg


def graph_drawing(graph: Graph, *, detail: str = "operations", dark: bool = False) -> Drawing:
    """Draws a graph: a box a layer, in it the way forward on the left and the way back, upwards, on the right."""
    from builder.graph import COLLAPSED

    shown = graph.by_layer(0 if detail == "layers" else COLLAPSED)
    ink = _DARK if dark else _LIGHT
    groups = {layer: _Group(layer, title, shown) for layer, title in shown.layers if shown.of(layer)}
    half = max(g.half for g in groups.values())
    sizes = {layer: (2 * half + 3 * _PAD, g.height) for layer, g in groups.items()}
    owner = {o.id: o.layer for o in shown.operations}
    flow = [(owner[a], owner[b]) for a, b in shown.forward if owner[a] != owner[b]]
    used = {layer for edge in flow for layer in edge}
    order = [layer for layer in sizes if layer in used]
    flow += [(a, b) for a, b in zip(order, order[1:], strict=False) if b not in {y for _, y in flow}]
    outer = arrange(sizes, flow, gap_x=40, gap_y=36)
    top = 40.0
    sheet = _Sheet(ink)
    boxes: dict[str, tuple[float, float, float, float]] = {}
    for layer, group in groups.items():
        x, y = outer.places[layer]
        group.place(x + _PAD, y + _PAD + top, half, boxes)
    for layer, group in groups.items():
        x, y = (v + _PAD for v in outer.places[layer])
        sheet.box(x, y + top, *sizes[layer], ink.panel, ink.line, 12)
        sheet.text(x + _PAD, y + top + 20, group.title, size=13, weight=650)
        if group.layer not in (group.title, INPUT, LOSS):
            left = x + _PAD + _wide(group.title, 13.6) + 8
            sheet.text(left, y + top + 20, group.layer, size=10.5, colour=ink.faint, mono=True)
    inside = {edge: points for group in groups.values() for edge, points in group.inside.items()}
    _wires(sheet, shown, owner, boxes, outer, inside, top)
    for operation in shown.operations:
        if operation.id in boxes:
            _operation(sheet, operation, *boxes[operation.id])
    _legend(sheet)
    width = max(outer.width + 2 * _PAD, 560)
    return sheet.done(width, outer.height + 2 * _PAD + top, "Computational graph, forward and back")


def _size(operation: Operation) -> tuple[float, float]:
    first, second = _words(operation)
    width = max(_wide(first, 12), _wide(second, 10.5, True)) + 22
    return max(width, 84.0), 38.0 if second else 26.0


def _words(operation: Operation) -> tuple[str, str]:
    """What stands in a box: (first line, second line)."""
    shape = network.show(operation.shape)
    if operation.kind == "weight":
        return operation.note if operation.shape else operation.name, shape or operation.note
    name = operation.name.strip("_") if operation.kind == "forward" else operation.name
    return name, shape if operation.kind != "backward" else operation.note


class _Group:
    """One layer: its operations forward, and its steps back with the weights that their gradients arrive at."""

    def __init__(self, layer: str, title: str, graph: Graph) -> None:
        self.layer, self.title = layer, title
        own = {o.id: o for o in graph.of(layer)}
        self.sizes = {id: _size(o) for id, o in own.items()}
        ahead = [id for id, o in own.items() if o.kind in ("forward", "scan")]
        back = [id for id, o in own.items() if o.kind == "backward"]
        self.weights: dict[str, list[str]] = {}
        hung: set[str] = set()
        for a, b in graph.backward:
            if b in own and own[b].kind == "weight" and b not in hung:
                hung.add(b)
                self.weights.setdefault(a if a in own else "", []).append(b)
        self.loose = [id for id, o in own.items() if o.kind == "weight" and id not in hung]
        for weights in (self.weights.pop("", []), self.loose):
            if weights and back:
                self.weights.setdefault(back[0], []).extend(weights)
        compound = {id: self._with_weights(id) for id in back}
        inner_f = [(a, b) for a, b in graph.forward if a in ahead and b in ahead]
        inner_b = [(b, a) for a, b in graph.backward if a in compound and b in compound]
        self.forward: Arranged[str] = arrange({i: self.sizes[i] for i in ahead}, inner_f, gap_x=16, gap_y=24)
        self.backward: Arranged[str] = arrange(compound, inner_b, gap_x=16, gap_y=24)
        self.inside: dict[tuple[str, str], list[Point]] = {}
        self.half = max(self.forward.width, self.backward.width, _wide(f"{title} {layer}", 13) / 2)
        self.height = 34 + _PAD + max(self.forward.height, self.backward.height)

    def _with_weights(self, id: str) -> tuple[float, float]:
        width, height = self.sizes[id]
        weights = [self.sizes[w] for w in self.weights.get(id, [])]
        if not weights:
            return width, height
        # As much room on the left as the weights take on the right: the way back then runs straight.
        return width + 2 * (26 + max(w for w, _ in weights)), max(height, sum(h + 6 for _, h in weights) - 6)

    def place(self, x: float, y: float, half: float, boxes: dict[str, tuple[float, float, float, float]]) -> None:
        """Puts (x, y, width, height) of every operation into `boxes`."""
        room = self.height - 34 - _PAD
        left, top = x + _PAD + (half - self.forward.width) / 2, y + 34 + (room - self.forward.height) / 2
        for id, (px, py) in self.forward.places.items():
            boxes[id] = (left + px, top + py, *self.sizes[id])
        for edge, bends in self.forward.bends.items():
            self.inside[edge] = [(left + bx, top + by) for bx, by in bends]
        left, top = x + half + 2 * _PAD + (half - self.backward.width) / 2, y + 34 + (room - self.backward.height) / 2
        for id, (px, py) in self.backward.places.items():
            width, height = self.sizes[id]
            across, whole = self._with_weights(id)
            begin = left + px + (across - width) / 2
            boxes[id] = (begin, top + py + (whole - height) / 2, width, height)
            at = top + py + (whole - sum(self.sizes[w][1] + 6 for w in self.weights.get(id, [])) + 6) / 2
            for weight in self.weights.get(id, []):
                boxes[weight] = (begin + width + 26, at, *self.sizes[weight])
                at += self.sizes[weight][1] + 6
        for (above, below), bends in self.backward.bends.items():
            self.inside[below, above] = [(left + bx, top + by) for bx, by in bends[::-1]]


def _wires(
    sheet: _Sheet,
    graph: Graph,
    owner: dict[str, str],
    boxes: dict[str, tuple[float, float, float, float]],
    outer: Arranged[str],
    inside: dict[tuple[str, str], list[Point]],
    top: float,
) -> None:
    ink = sheet.ink
    kinds = {o.id: o.kind for o in graph.operations}

    def between(a: str, b: str, shift: float) -> list[Point]:
        """The points that an edge between two layers passes on its way down."""
        bends = outer.bends.get((owner[a], owner[b]), [])
        return [(x + _PAD + shift, y + _PAD + top) for x, y in bends]

    for a, b in graph.forward:
        if a in boxes and b in boxes:
            passed = inside.get((a, b)) or between(a, b, -5)
            sheet.way([_foot(boxes[a]), *passed, _head(boxes[b])], ink.forward, 1.8, "to")
    for a, b in graph.backward:
        if a not in boxes or b not in boxes:
            continue
        if kinds[b] == "weight":
            (x, y, width, height), (wx, wy, _, wh) = boxes[a], boxes[b]
            sheet.parts.append(
                f'<path d="M{x + width:.1f},{y + height / 2:.1f} C{x + width + 14:.1f},{y + height / 2:.1f} '
                f'{wx - 14:.1f},{wy + wh / 2:.1f} {wx - 1:.1f},{wy + wh / 2:.1f}" fill="none" stroke="{ink.weight}" '
                f'stroke-width="1.6" marker-end="url(#grad)"/>'
            )
        elif kinds[a] == "forward":  # from the loss to where the way back begins
            (x, y, width, height), (bx, by, _, bh) = boxes[a], boxes[b]
            sheet.parts.append(
                f'<path d="M{x + width:.1f},{y + height / 2:.1f} C{x + width + 24:.1f},{y + height / 2:.1f} '
                f'{bx - 24:.1f},{by + bh / 2:.1f} {bx - 1:.1f},{by + bh / 2:.1f}" fill="none" stroke="{ink.backward}" '
                f'stroke-width="1.8" stroke-dasharray="5 4" marker-end="url(#back)"/>'
            )
        else:
            passed = inside.get((a, b)) or between(b, a, 5)[::-1]
            sheet.way([_head(boxes[a]), *passed, _foot(boxes[b])], ink.backward, 1.8, "back")


def _foot(box: tuple[float, float, float, float]) -> Point:
    return box[0] + box[2] / 2, box[1] + box[3]


def _head(box: tuple[float, float, float, float]) -> Point:
    return box[0] + box[2] / 2, box[1]


def _operation(sheet: _Sheet, operation: Operation, x: float, y: float, width: float, height: float) -> None:
    ink = sheet.ink
    fill, stroke = {
        "forward": (ink.forward_fill, ink.forward),
        "scan": (ink.forward_fill, ink.forward),
        "backward": (ink.backward_fill, ink.backward),
        "weight": (ink.weight_fill, ink.weight),
    }[operation.kind]
    sheet.box(x, y, width, height, fill, stroke, height / 2 if operation.kind == "weight" else 7)
    first, second = _words(operation)
    middle = x + width / 2
    sheet.text(middle, y + (16 if second else height / 2 + 4), first, weight=550, middle=True)
    if second:
        sheet.text(middle, y + 31, second, size=10.5, colour=ink.faint, middle=True, mono=True)
    meant = {
        "forward": "forward",
        "scan": "what goes in",
        "backward": "gradient, step back",
        "weight": "gradient arrives here (AccumulateGrad)",
    }[operation.kind]
    numbers = f", {prod(operation.shape):,} numbers" if operation.shape else ""
    shape = f" {network.show(operation.shape)}" if operation.shape else ""
    sheet.marks.append(Mark(middle, y + height / 2, f"{first}{shape}{numbers}: {meant}, layer {operation.layer}"))


def _legend(sheet: _Sheet) -> None:
    ink, x = sheet.ink, _PAD
    for colour, arrow, words in (
        (ink.forward, "to", "forward: what each operation puts out"),
        (ink.backward, "back", "back: gradients"),
        (ink.weight, "grad", "a gradient arrives at a weight"),
    ):
        sheet.parts.append(
            f'<path d="M{x:.1f},22 L{x + 26:.1f},22" stroke="{colour}" stroke-width="2.2" marker-end="url(#{arrow})"/>'
        )
        sheet.text(x + 34, 26, words, size=11.5, colour=ink.faint)
        x += 34 + _wide(words, 11.5) + 22
