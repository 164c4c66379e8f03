"""Layers that join several others."""

from builder.catalog import LayerSpec

PARTS = (
    LayerSpec(
        "add",
        "Add",
        "builder.blocks.join:Add",
        "Sum of two or more layers of one shape: a skip connection, through which gradients flow freely.",
        (),
        "Join",
        "skip shortcut residual plus merge",
        inputs=2,
    ),
    LayerSpec(
        "multiply",
        "Multiply",
        "builder.blocks.join:Multiply",
        "Product of two or more layers, number by number: one gates the other. A side of 1 is stretched to fit.",
        (),
        "Join",
        "gate attention product times mask merge",
        inputs=2,
    ),
    LayerSpec(
        "concatenate",
        "Concatenate",
        "builder.blocks.join:Concatenate",
        "Stacks the channels (or features) of two or more layers.",
        (),
        "Join",
        "merge join cat skip",
        inferred={"dim": "axis"},
        inputs=2,
        takes=("vector", "sequence", "maps", "volume"),
    ),
)
