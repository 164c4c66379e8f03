"""How a scan becomes the network's input, and how it is varied in training. Pure data.

Amounts are stated in units a person can picture (degrees, fractions of the picture, fractions of the grey range [0, 1]).
"""

from builder.catalog import Catalog, Float, Int, OneOf, Part

WINDOWS = ("auto", "stored range", "percentile", "ct lung", "ct soft tissue", "ct brain", "ct bone")

PREPARE = Part(
    name="data",
    title="Preparation",
    target="builder.data:prepare",
    help="What happens to every scan, in training and in use alike, before the network sees it.",
    params=(
        Int(
            "size_px",
            64,
            16,
            1024,
            "Side of the square the network sees. 128 is a good start; more is slower.",
            8,
            True,
            "px",
        ),
        OneOf(
            "fit",
            "pad",
            ("pad", "stretch", "crop", "patches"),
            "How a scan that is not square becomes square: black borders (shape kept), stretched, or its middle cut out. "
            "patches: the scan keeps its own resolution; the network sees squares of this size cut out of it.",
        ),
        OneOf(
            "colour",
            "grey",
            ("grey", "rgb", "neighbours"),
            "Grey for X-ray, CT, MR and ultrasound; rgb for photographs and microscopy. neighbours (2.5-D): the slice "
            "with the one before and the one after it as three channels.",
        ),
        OneOf(
            "window",
            "auto",
            WINDOWS,
            "Which stored values become black and white. auto: the file's own window, else its robust range. "
            "The ct windows are fixed ranges of Hounsfield units.",
        ),
        OneOf(
            "slices",
            "middle",
            ("middle", "mean", "maximum", "each", "series", "volume"),
            "What the network sees of a scan with several slices: one picture (the middle slice, the mean or the maximum "
            "over slices); each slice as a picture of its own; a series, slice after slice in order, for layers that "
            "look at each slice or at their order; or a volume, for 3-D layers.",
        ),
        Int(
            "num_slices",
            16,
            2,
            512,
            "How many slices of a scan the network sees, as a series or a volume. More is slower.",
            1,
            True,
            "slices",
        ),
        OneOf(
            "slice_choice",
            "spread",
            ("spread", "middle"),
            "Which slices are taken. spread: evenly from the first to the last; a scan with fewer shows some twice. "
            "middle: neighbours from the middle; a scan with fewer gets black slices at both ends. No slice is ever "
            "computed between two others.",
        ),
        OneOf(
            "normalize",
            "dataset",
            ("dataset", "imagenet", "none"),
            "Shift and scale of the grey values: by mean and spread of the training scans, by ImageNet's (for pretrained "
            "backbones), or not at all (values stay in 0 to 1).",
        ),
    ),
)


def _chance(default: float = 0.5) -> Float:
    return Float("probability", default, 0.0, 1.0, "How often it is applied: 1 = to every scan.", 0.05)


AUGMENTATIONS = Catalog(
    "augmentation",
    (
        Part(
            "rotate",
            "Rotate",
            "",
            "Turns the scan by a random angle in both directions.",
            (Float("degrees", 10.0, 0.0, 180.0, "Largest angle.", 1.0, unit="degrees"), _chance()),
            "Geometry",
        ),
        Part(
            "flip_horizontal",
            "Flip left-right",
            "",
            "Mirrors the scan. Wrong where sides matter: on chest films it moves the heart to the right.",
            (_chance(),),
            "Geometry",
        ),
        Part(
            "flip_vertical",
            "Flip up-down",
            "",
            "Turns the scan upside down. Sensible for microscopy and skin, rarely for radiology.",
            (_chance(),),
            "Geometry",
        ),
        Part(
            "zoom",
            "Zoom and crop",
            "",
            "Enlarges (the border is cropped away) or shrinks (a black border appears) around the centre.",
            (
                Float("low", 0.9, 0.25, 1.0, "Smallest magnification.", 0.05),
                Float("high", 1.1, 1.0, 4.0, "Largest magnification.", 0.05),
                _chance(),
            ),
            "Geometry",
            "crop scale resize",
        ),
        Part(
            "shift",
            "Shift",
            "",
            "Moves the scan sideways and up or down.",
            (Float("fraction", 0.1, 0.0, 0.5, "Largest move as a fraction of the picture.", 0.01), _chance()),
            "Geometry",
            "translate move",
        ),
        Part(
            "shear",
            "Shear",
            "",
            "Slants the scan sideways, as a tilted view would.",
            (Float("degrees", 5.0, 0.0, 45.0, "Largest slant.", 1.0, unit="degrees"), _chance(0.3)),
            "Geometry",
        ),
        Part(
            "noise",
            "Noise",
            "",
            "Adds Gaussian noise, as a lower dose or a shorter scan would.",
            (
                Float("sigma", 0.03, 0.0, 0.5, "Largest standard deviation, as a fraction of the grey range.", 0.01),
                _chance(),
            ),
            "Intensity",
        ),
        Part(
            "brightness",
            "Brightness",
            "",
            "Makes the scan brighter or darker.",
            (Float("amount", 0.1, 0.0, 1.0, "Largest change, as a fraction of the grey range.", 0.01), _chance()),
            "Intensity",
        ),
        Part(
            "contrast",
            "Contrast",
            "",
            "Spreads or compresses grey values around the scan's mean.",
            (Float("amount", 0.15, 0.0, 0.95, "Largest relative change.", 0.01), _chance()),
            "Intensity",
        ),
        Part(
            "gamma",
            "Gamma",
            "",
            "Bends the grey scale: dark parts lighter or darker while black and white stay.",
            (Float("amount", 0.2, 0.0, 0.95, "Largest change of the exponent around 1.", 0.01), _chance(0.3)),
            "Intensity",
        ),
        Part(
            "blur",
            "Blur",
            "",
            "Softens the scan with a Gaussian.",
            (Float("sigma_px", 1.0, 0.0, 5.0, "Largest standard deviation.", 0.1, unit="px"), _chance(0.2)),
            "Intensity",
            "smooth",
        ),
        Part(
            "colour",
            "Colour jitter",
            "",
            "Varies saturation and hue. Only for colour pictures: hue means nothing on CT.",
            (
                Float("saturation", 0.2, 0.0, 1.0, "Largest relative change of saturation.", 0.05),
                Float("hue", 0.03, 0.0, 0.5, "Largest change of hue, as a fraction of the colour circle.", 0.01),
                _chance(),
            ),
            "Intensity",
            "color hue saturation stain",
        ),
    ),
)

DEGRADATIONS = Catalog(
    "degradation",
    (
        Part(
            "none",
            "None",
            "",
            "Nothing is taken away: the data set holds pairs, a poor scan and the good one that it should become.",
        ),
    ),
)
"""How a clean scan is made poor, for image enhancement to learn the way back. `builder.degrade` does it."""

__all__ = ["AUGMENTATIONS", "DEGRADATIONS", "PREPARE", "WINDOWS"]
