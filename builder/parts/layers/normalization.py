"""Normalizations: values centred and scaled, for faster and steadier learning."""

from builder.catalog import Float, Int, LayerSpec

PARTS = (
    LayerSpec(
        "batch_norm",
        "Batch norm",
        "torch.nn:BatchNorm2d",
        "Centres and scales each channel over the batch (Ioffe and Szegedy 2015): faster, steadier learning; a cure for "
        "vanishing and exploding gradients.",
        (Float("momentum", 0.1, 0.001, 1.0, "How fast the running mean follows.", 0.01),),
        "Normalization",
        "normalise stabilise",
        inferred={"num_features": "channels"},
        takes=("maps",),
    ),
    LayerSpec(
        "group_norm",
        "Group norm",
        "torch.nn:GroupNorm",
        "Normalizes groups of channels within each scan (Wu and He 2018): works with tiny batches.",
        (Int("num_groups", 8, 1, 1024, "Number of groups; must divide the channels.", log=True),),
        "Normalization",
        "normalise instance",
        inferred={"num_channels": "channels"},
        takes=("vector", "maps"),
    ),
    LayerSpec(
        "layer_norm",
        "Layer norm",
        "builder.blocks.norm:LayerNorm2d",
        "Normalizes all channels of each pixel, or all features of each scan (Ba et al. 2016).",
        (),
        "Normalization",
        "normalise",
        inferred={"normalized_shape": "channels"},
        takes=("vector", "maps"),
    ),
)
