"""Layers that cannot stand alone behind the scan: what feeds them in the contract tests."""

from builder.catalog import LayerSpec
from builder.spec import Node

HALVED = {"level2": "input", "level4": "level2", "level8": "level4"}
FEEDS = {
    "unet_decoder": ("level2", "level4", "level8"),
    "unetplusplus_decoder": ("level2", "level4", "level8"),
    "fpn_decoder": ("level2", "level4", "level8"),
    "deeplab_decoder": ("level2", "level8"),
    "mask_scores": ("level2",),
    "image_head": ("level2",),
    "type_and_outline": ("level2", "level4"),
    "feature_pyramid": ("level2", "level4"),
    "box_head": ("level2", "level4"),
    "two_stage_head": ("level2", "level4"),
    "anchor_head": ("level2", "level4"),
}


def fed(spec: LayerSpec, params: dict | None = None, layout: str = "maps") -> list[Node]:
    """The layer "layer" behind poolings that halve the scan again and again; [] for layers that need no such thing."""
    if spec.name not in FEEDS:
        return []
    wanted = FEEDS[spec.name]
    pooling = "average_pool" if layout != "volume" else "average_pool_3d"
    needed = list(HALVED)[: 1 + max(list(HALVED).index(i) for i in wanted)]
    pools = [Node(id=i, name=pooling, inputs=(HALVED[i],)) for i in needed]
    layer = Node(id="layer", name=spec.name, params=params or {}, inputs=wanted)
    if spec.name != "feature_pyramid":
        return [*pools, layer]
    # It puts out several maps: brought to one size and laid over one another, so that each of them counts.
    halved = Node(id="halved", name="average_pool", inputs=("layer:1",))
    return [*pools, layer, halved, Node(id="all", name="concatenate", inputs=("halved", "layer:2"))]
