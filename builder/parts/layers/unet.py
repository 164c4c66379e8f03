"""Whole U-Nets of MONAI, for volumes and pictures: they give their deepest maps (1), and fine ones at full size (2)."""

from builder.catalog import Flag, Float, Int, LayerSpec, OneOf

_INFERRED = {"channels": "channels", "dimensions": "dimensions"}
_NEEDS = ("monai",)
_GROUP = "U-Nets"
_LEVELS = Int(
    "levels", 4, 2, 7, "How many levels: each but the last halves the sides, which must divide evenly.", title="Levels"
)
_FLAT = Int(
    "flat_levels",
    0,
    0,
    6,
    "How many of the steps down, from the top, halve height and width only. For slices that lie far apart: 1 where they "
    "are twice as far apart as pixels, 2 at four times.",
    title="Flat levels",
)
_NORM = OneOf("norm", "instance", ("instance", "batch"), "Normalizes each scan by itself, or over the batch.")
_DROPPED = Float("dropout", 0.0, 0.0, 0.9, "Share dropped inside.", 0.05)


def _width(step: int = 1) -> Int:
    words = "Channels of the first level, and of the fine maps; each level below has twice as many."
    if step > 1:
        words += f" A multiple of {step}."
    return Int("width", 16, step if step > 1 else 2, 256, words, step, step == 1, title="Width")


PARTS = (
    LayerSpec(
        "monai_unet",
        "U-Net (MONAI)",
        "builder.blocks.unet:ResidualUnet",
        "A whole U-Net of residual units (Kerfoot 2018), for volumes or pictures: small and quick to learn. Its second "
        "output, the plain wire, is as large as the scan; its first holds the deepest maps, for the type.",
        (
            _width(),
            _LEVELS,
            _FLAT,
            Int("units", 2, 0, 4, "Convolutions in each residual unit; 0: a single one without a shortcut."),
            _NORM,
            _DROPPED,
        ),
        _GROUP,
        "segmentation mask outline volume 3-d volumetric patches encoder decoder residual u-net",
        inferred=_INFERRED,
        takes=("maps", "volume"),
        needs=_NEEDS,
    ),
    LayerSpec(
        "monai_dynunet",
        "nnU-Net (MONAI DynUNet)",
        "builder.blocks.unet:DynamicUnet",
        "The plain U-Net that nnU-Net sets up (Isensee 2021), two convolutions a level: the strongest usual choice for organs "
        "and tumors in volumes, slower than the other two. Outputs: the deepest maps, then the fine ones.",
        (
            _width(),
            Int("levels", 4, 3, 7, _LEVELS.help, title="Levels"),
            _FLAT,
            Flag("residual", False, "A shortcut around the convolutions of each level down."),
            _NORM,
            _DROPPED,
        ),
        _GROUP,
        "segmentation mask outline volume 3-d volumetric patches encoder decoder nnunet u-net",
        inferred=_INFERRED,
        takes=("maps", "volume"),
        needs=_NEEDS,
    ),
    LayerSpec(
        "monai_segresnet",
        "SegResNet (MONAI)",
        "builder.blocks.unet:SegmentationResNet",
        "A deep way down of residual blocks and a light way up (Myronenko 2018, won the brain tumor challenge): little "
        "memory for its depth, content with small batches. Outputs: the deepest maps, then the fine ones.",
        (
            _width(8),
            _LEVELS,
            Int("blocks", 2, 1, 8, "Residual blocks of each level on the way down."),
            _DROPPED,
        ),
        _GROUP,
        "segmentation mask outline volume 3-d volumetric patches encoder decoder residual brain u-net",
        inferred=_INFERRED,
        takes=("maps", "volume"),
        needs=_NEEDS,
    ),
)
