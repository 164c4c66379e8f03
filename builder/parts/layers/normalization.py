"""Normalizations: values centred and scaled, for faster and steadier learning."""

from builder.catalog import Flag, Float, Int, LayerSpec

_MOMENTUM = Float("momentum", 0.1, 0.001, 1.0, "How fast the running mean follows.", 0.01)
_AFFINE = Flag("affine", True, "Learns a scale and a shift for each channel.", title="Learned scale")

PARTS = (
    LayerSpec(
        "batch_norm",
        "Batch norm",
        "torch.nn:BatchNorm2d",
        "Centres and scales each channel over the batch (Ioffe and Szegedy 2015): faster, steadier learning; a cure for "
        "vanishing and exploding gradients.",
        (_MOMENTUM,),
        "Normalization",
        "normalise stabilise",
        inferred={"num_features": "channels"},
        takes=("maps",),
    ),
    LayerSpec(
        "batch_norm_1d",
        "Batch norm 1-D",
        "torch.nn:BatchNorm1d",
        "Centres and scales each feature over the batch, and over all steps of a sequence (Ioffe and Szegedy 2015).",
        (_MOMENTUM,),
        "Normalization",
        "normalise stabilise vector features",
        inferred={"num_features": "features"},
        takes=("vector",),
    ),
    LayerSpec(
        "batch_norm_3d",
        "Batch norm 3-D",
        "torch.nn:BatchNorm3d",
        "Centres and scales each channel of volumes over the batch (Ioffe and Szegedy 2015). With batches of one or two "
        "volumes take group norm.",
        (_MOMENTUM,),
        "Normalization",
        "normalise stabilise volumetric",
        inferred={"num_features": "channels"},
        takes=("volume",),
    ),
    LayerSpec(
        "instance_norm",
        "Instance norm",
        "torch.nn:InstanceNorm2d",
        "Centres and scales each channel of each picture alone (Ulyanov 2016): takes out brightness and contrast of the "
        "single scan.",
        (_AFFINE,),
        "Normalization",
        "normalise contrast style",
        inferred={"num_features": "channels"},
        takes=("maps",),
    ),
    LayerSpec(
        "instance_norm_1d",
        "Instance norm 1-D",
        "builder.blocks.norm:SequenceInstanceNorm1d",
        "Centres and scales each feature over the time of its own sequence (Ulyanov 2016).",
        (_AFFINE,),
        "Normalization",
        "normalise temporal",
        inferred={"num_features": "features"},
        takes=("sequence",),
    ),
    LayerSpec(
        "instance_norm_3d",
        "Instance norm 3-D",
        "torch.nn:InstanceNorm3d",
        "Centres and scales each channel of each volume alone (Ulyanov 2016): the norm of nnU-Net, good with tiny batches.",
        (_AFFINE,),
        "Normalization",
        "normalise contrast volumetric nnunet",
        inferred={"num_features": "channels"},
        takes=("volume",),
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
        takes=("vector", "maps", "volume"),
    ),
    LayerSpec(
        "layer_norm",
        "Layer norm",
        "builder.blocks.norm:LayerNorm2d",
        "Normalizes all channels of each pixel or voxel, or all features of each scan or step (Ba et al. 2016).",
        (),
        "Normalization",
        "normalise transformer",
        inferred={"normalized_shape": "channels"},
        takes=("vector", "sequence", "maps", "volume"),
    ),
)
