"""A network as an SVG picture: layers from top to bottom, skips as arcs beside them, drawn from the plan alone."""

from __future__ import annotations

from html import escape

from builder import network
from builder.catalog import LayerSpec
from builder.parts.layers import LAYERS
from builder.spec import INPUT, Experiment, feeder

_WIDTH, _HEIGHT, _GAP, _LANE = 300, 46, 22, 18
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1b2430}.s{font-size:11px;fill:#5b6675}"
    "rect{fill:#fff;stroke:#9aa7b8;rx:8}path{fill:none;stroke:#5b6675;stroke-width:1.4}"
    ".k{stroke:#2f5fd0}.e{stroke:#c0392b}"
    "@media(prefers-color-scheme:dark){text{fill:#e7ecf3}.s{fill:#a9b4c2}rect{fill:#171d27;stroke:#4a576a}"
    "path{stroke:#a9b4c2}.k{stroke:#7da2ff}}"
)


def svg(experiment: Experiment, num_classes: int) -> str:
    """The drawing as SVG text; a wire that passes layers by runs in a lane of its own on the right.

    Every text is escaped; a layer that cannot work is drawn too, with a red border.
    """
    planned = network.plan_of(experiment, num_classes)
    rows = {INPUT: 0, **{node.id: k + 1 for k, node in enumerate(planned.nodes)}}
    lanes = _lanes([(rows[feeder(w)], rows[n.id]) for n in planned.nodes for w in n.inputs if feeder(w) in rows])
    num_lanes = 1 + max(lanes.values(), default=-1)
    width = _WIDTH + 40 + _LANE * num_lanes
    height = len(rows) * (_HEIGHT + _GAP) + 20
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{escape(experiment.name)}">',
        f"<style>{_STYLE}</style>",
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8Z" style="fill:#5b6675;stroke:none"/></marker></defs>',
        _box(0, "Scan", "", network.show(planned.input), False),
    ]
    for node in planned.nodes:
        part = LAYERS.get(node.name)
        choice = next(n for n in experiment.network if n.id == node.id)
        words = ", ".join(f"{key} {value}" for key, value in choice.params.items())
        shape = network.show(node.shape) if node.shape is not None else "?"
        title = part.title if isinstance(part, LayerSpec) else node.name
        drawn.append(_box(rows[node.id], f"{title} · {node.id}", words, shape, bool(node.message)))
    for (above, below), lane in lanes.items():
        drawn.append(_wire(above, below, lane))
    return "\n".join([*drawn, "</svg>", ""])


def _lanes(wires: list[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """{(row above, row below): lane}; -1 for neighbours, else the first lane that no crossing wire is in."""
    lanes: dict[tuple[int, int], int] = {}
    for above, below in sorted(set(wires), key=lambda wire: wire[1] - wire[0]):
        taken = {lane for (a, b), lane in lanes.items() if lane >= 0 and a < below and above < b}
        free = next(k for k in range(len(wires) + 1) if k not in taken)
        lanes[above, below] = -1 if below == above + 1 else free
    return lanes


def _box(row: int, title: str, words: str, shape: str, wrong: bool) -> str:
    y = 10 + row * (_HEIGHT + _GAP)
    said = words if len(words) < 40 else f"{words[:38]}…"
    red = ' class="e"' if wrong else ""
    return (
        f'<rect x="10" y="{y}" width="{_WIDTH}" height="{_HEIGHT}"{red}/>'
        f'<text x="22" y="{y + 19}">{escape(title[:40])}</text>'
        f'<text x="22" y="{y + 36}" class="s">{escape(said)}</text>'
        f'<text x="{_WIDTH}" y="{y + 36}" class="s" text-anchor="end">{escape(shape)}</text>'
    )


def _wire(above: int, below: int, lane: int) -> str:
    start = 10 + above * (_HEIGHT + _GAP) + _HEIGHT
    end = 10 + below * (_HEIGHT + _GAP)
    if lane < 0:
        x = 10 + _WIDTH // 2
        return f'<path d="M{x} {start}V{end - 1}" marker-end="url(#a)"/>'
    side, out = 10 + _WIDTH, 10 + _WIDTH + _LANE * (lane + 1)
    top, foot = start - _HEIGHT // 2, end + _HEIGHT // 2
    return (
        f'<path class="k" d="M{side} {top}C{out} {top} {out} {top} {out} {top + 14}V{foot - 14}'
        f'C{out} {foot} {out} {foot} {side + 2} {foot}" marker-end="url(#a)"/>'
    )
