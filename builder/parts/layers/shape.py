"""Layers that only lay out numbers anew."""

from builder.catalog import LayerSpec

PARTS = (
    LayerSpec(
        "flatten",
        "Flatten",
        "torch.nn:Flatten",
        "Lays the whole picture out as one long vector, so that linear layers can read it.",
        (),
        "Shape",
        "vector reshape",
        takes=("vector", "sequence", "maps", "volume"),
    ),
)
