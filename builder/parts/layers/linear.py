"""Weighted sums of everything, and the class scores."""

from builder.catalog import Flag, Int, LayerSpec

PARTS = (
    LayerSpec(
        "linear",
        "Linear",
        "torch.nn:Linear",
        "Every output is a weighted sum of all inputs (a fully connected layer).",
        (
            Int("out_features", 64, 1, 100_000, "Number of outputs.", log=True),
            Flag("bias", True, "Adds a learned constant to each output."),
        ),
        "Linear",
        "dense fully connected",
        inferred={"in_features": "features"},
        takes=("vector",),
    ),
    LayerSpec(
        "class_scores",
        "Class scores",
        "torch.nn:Linear",
        "The usual last layer of recognition: one score per class of the data set, however many there are.",
        (),
        "Linear",
        "head output classifier logits",
        inferred={"in_features": "features", "out_features": "classes"},
        takes=("vector",),
    ),
)
