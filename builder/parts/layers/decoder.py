"""From several maps, shallow to deep, back to one fine map: for masks, boxes and pictures."""

from builder.catalog import Flag, Float, Int, LayerSpec, OneOf

_NEEDS = ("segmentation-models-pytorch",)
_MAPS = {"channels": "channels_each", "sizes": "sizes"}
_RESOLUTION = OneOf(
    "resolution",
    "shallowest",
    ("shallowest", "scan"),
    "Where it ends: at the size of the first map, or one step further at that of the scan.",
)


def _out(default: int, help: str = "Channels that come out.") -> Int:
    return Int("out_channels", default, 1, 1024, help, log=True)


PARTS = (
    LayerSpec(
        "unet_decoder",
        "U-Net decoder",
        "builder.blocks.decoder:UnetDecoder",
        "Doubles the deepest map step by step and joins each finer map on the way (Ronneberger 2015): sharp outlines from "
        "few scans. Feed it the stages of a backbone, or your own layers, shallow to deep.",
        (
            _out(16, "Channels that come out; each step below has twice as many, at most 512."),
            _RESOLUTION,
            Flag("attention", False, "Weighs channels and places in each step (scSE, Roy 2018)."),
        ),
        "Decoders",
        "segmentation mask upsample skip encoder u-net",
        inferred={**_MAPS, "scan_size": "scan_size"},
        inputs=2,
        takes=("maps",),
        needs=_NEEDS,
    ),
    LayerSpec(
        "unetplusplus_decoder",
        "U-Net++ decoder",
        "builder.blocks.decoder:UnetPlusPlusDecoder",
        "A U-Net with further steps in its skips (Zhou 2018): a little better on small structures, at several times the cost. "
        "Each map must be half as large as the one before.",
        (_out(16, "Channels that come out; each step below has twice as many, at most 512."), _RESOLUTION),
        "Decoders",
        "segmentation mask upsample nested skip unet",
        inferred={**_MAPS, "scan_size": "scan_size"},
        inputs=2,
        takes=("maps",),
        needs=_NEEDS,
    ),
    LayerSpec(
        "fpn_decoder",
        "FPN decoder",
        "builder.blocks.decoder:FPNDecoder",
        "Feature pyramid (Lin 2017): every level joins the one below, all are summed at the size of the first. Light, and "
        "good where sizes vary. Each map must be half as large as the one before.",
        (
            Int("pyramid_channels", 128, 1, 1024, "Channels of the levels.", log=True),
            Int("out_channels", 64, 32, 1024, "Channels that come out; a multiple of 32.", step=32),
            Float("dropout", 0.2, 0.0, 0.9, "Share of channels dropped at the end.", 0.05),
        ),
        "Decoders",
        "segmentation detection mask pyramid multi-scale",
        inferred=_MAPS,
        inputs=2,
        takes=("maps",),
        needs=_NEEDS,
    ),
    LayerSpec(
        "feature_pyramid",
        "Feature pyramid",
        "builder.blocks.decoder:FeaturePyramid",
        "Feature pyramid that keeps its levels (Lin 2017): several maps, each told by the coarser ones what it looks at. For "
        "boxes of several sizes: wire each of its outputs into the head.",
        (_out(64, "Channels of every map that comes out."),),
        "Decoders",
        "detection fpn levels pyramid multi-scale boxes",
        inferred=_MAPS,
        inputs=2,
        takes=("maps",),
        needs=("torchvision",),
    ),
    LayerSpec(
        "deeplab_decoder",
        "DeepLabV3+ decoder",
        "builder.blocks.decoder:DeepLabDecoder",
        "Looks at a deep map through convolutions with gaps of several widths and sharpens it with a shallow one (Chen "
        "2018): wide context for large structures. First the shallow map, then the deep one; batches of two and more.",
        (
            _out(128),
            Int("rate", 12, 1, 48, "Gaps of the narrowest convolution; the others have 2 and 3 times as wide ones."),
            Float("dropout", 0.5, 0.0, 0.9, "Share dropped inside.", 0.05),
        ),
        "Decoders",
        "segmentation mask atrous dilated aspp context",
        inferred=_MAPS,
        inputs=2,
        most=2,
        takes=("maps",),
        needs=_NEEDS,
    ),
)
