"""How a scan becomes the network's input, and how it is varied in training. Pure data.

Amounts are stated in units a person can picture (degrees, fractions of the picture, fractions of the grey range [0, 1]).
"""

from builder.catalog import Catalog, Float, Int, OneOf, Part

WINDOWS = ("auto", "stored range", "percentile", "ct lung", "ct soft tissue", "ct brain", "ct bone", "ct full")

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
            "patches: the scan keeps its own resolution; the network sees squares of this size cut out of it, or blocks of a "
            "volume.",
        ),
        Int(
            "num_patches",
            1,
            1,
            256,
            "How many squares are cut out of each picture, or blocks out of each volume, in an epoch, each time elsewhere; "
            "with patches only.",
            1,
            True,
            "patches",
        ),
        Float(
            "outlined_share",
            0.5,
            0.0,
            1.0,
            "Share of a volume's patches that are centred on its outline; the others are centred outside of it. More where "
            "tumors are small; less where too much is taken for one.",
            0.05,
            title="Share on the outline",
        ),
        Float(
            "pixel_mm",
            0.0,
            0.0,
            20.0,
            "Size that the pixels of a volume are brought to; 0 keeps each scan's own. Choose one where scans of several "
            "machines differ.",
            0.1,
            unit="mm",
            title="Pixel size",
        ),
        Float(
            "slice_mm",
            0.0,
            0.0,
            50.0,
            "Distance that the slices of a volume are brought to, computed between two others where need be; 0 keeps the "
            "slices as they are.",
            0.1,
            unit="mm",
            title="Slice distance",
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
            "The ct windows are fixed ranges of Hounsfield units; ct full holds them all (-1024 to 3071).",
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
            "How many slices of a scan the network sees, as a series or a volume; with patches, how many a patch is deep. "
            "More is slower.",
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
            "elastic",
            "Elastic",
            "",
            "Bends the scan softly, as breathing and pressure do; boxes and outlines bend along. Cubic B-splines "
            "(Rueckert 1999).",
            (
                Float("spacing", 0.25, 0.1, 0.5, "Size of a dent, as a fraction of the picture.", 0.05),
                Float(
                    "amount",
                    0.2,
                    0.0,
                    0.4,
                    "Largest pull, as a fraction of a dent. Up to 0.4 tissue never folds over itself (Choi 2000).",
                    0.05,
                ),
                _chance(0.3),
            ),
            "Geometry",
            "deform warp b-spline breathing",
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
        Part(
            "bias_field",
            "Bias field (MR)",
            "",
            "Slow shading over the picture, as MR coils cause: brighter here, darker there (Van Leemput 1999).",
            (
                Float("amount", 0.3, 0.0, 1.5, "Largest change: 0.3 is from 26 % darker to 35 % brighter.", 0.05),
                _chance(0.3),
            ),
            "Scanner",
            "mri inhomogeneity shading coil",
        ),
        Part(
            "ghosting",
            "Ghosting (MR)",
            "",
            "Faint copies of the scan beside it, as moving and breathing leave them in MR: every few lines of k-space "
            "are weakened.",
            (
                Float("strength", 0.4, 0.0, 1.0, "How much the lines are weakened at most.", 0.05),
                Int("ghosts", 5, 2, 10, "Most copies, the scan itself included."),
                _chance(0.2),
            ),
            "Scanner",
            "mri motion kspace artefact",
        ),
        Part(
            "ct_noise",
            "CT noise",
            "",
            "Noise of a lower dose: its variance grows with the grey value, as photon counts do, a quarter of it is left "
            "in black; its grain is that of a reconstruction kernel. Variance = sigma^2 (0.25 + 0.75 * grey value).",
            (
                Float(
                    "sigma",
                    0.05,
                    0.0,
                    0.5,
                    "Largest standard deviation in white, as a fraction of the grey range.",
                    0.01,
                ),
                Float(
                    "grain_px",
                    0.6,
                    0.0,
                    3.0,
                    "Size of its grain: sharp kernels 0, soft ones 1.",
                    0.1,
                    unit="px",
                    title="Grain",
                ),
                _chance(0.3),
            ),
            "Scanner",
            "ldct dose poisson photon hounsfield",
        ),
        Part(
            "speckle",
            "Speckle (ultrasound)",
            "",
            "Grain that multiplies the picture, as echoes of small scatterers do: strong in bright tissue, none in black.",
            (
                Float("sigma", 0.15, 0.0, 1.0, "Largest standard deviation, relative to the grey value.", 0.05),
                Float("grain_px", 0.8, 0.0, 3.0, "Size of its grain.", 0.1, unit="px", title="Grain"),
                _chance(0.3),
            ),
            "Scanner",
            "ultrasound multiplicative sonography",
        ),
        Part(
            "low_resolution",
            "Low resolution",
            "",
            "The scan as a coarser grid would show it, brought back to its size (as in nnU-Net, Isensee 2021).",
            (Float("factor", 2.0, 1.0, 4.0, "How many times coarser at most.", 0.25), _chance(0.2)),
            "Scanner",
            "downsample thick pixels simulate",
        ),
        Part(
            "cutout",
            "Erase patches",
            "",
            "Covers patches with the scan's mean grey, so that no single spot decides (DeVries 2017). A patch may cover "
            "a small finding.",
            (
                Float("size", 0.2, 0.02, 0.6, "Largest side of a patch, as a fraction of the picture.", 0.02),
                Int("patches", 2, 1, 8, "Most patches."),
                _chance(0.3),
            ),
            "Erasing and mixing",
            "cutout random erasing occlusion",
        ),
        Part(
            "mixup",
            "Mixup",
            "",
            "Blends two scans and teaches both answers in the same shares (Zhang 2018): less over-confidence.",
            (
                Float("strength", 0.2, 0.05, 2.0, "How evenly: 0.2 mostly a little of the other, 1 anything.", 0.05),
                Float("probability", 0.5, 0.0, 1.0, "How often it is applied: 1 = to every batch.", 0.05),
            ),
            "Erasing and mixing",
            "blend soft labels",
        ),
        Part(
            "cutmix",
            "Cutmix",
            "",
            "Puts a piece of one scan into another and teaches both answers by their area (Yun 2019). A finding of a few "
            "pixels may be cut away while its answer stays.",
            (
                Float("strength", 1.0, 0.05, 2.0, "How evenly: 0.2 mostly a small piece, 1 anything.", 0.05),
                Float("probability", 0.5, 0.0, 1.0, "How often it is applied: 1 = to every batch.", 0.05),
            ),
            "Erasing and mixing",
            "paste soft labels",
        ),
    ),
)

MIXING = ("mixup", "cutmix")
"""Augmentations that make one scan of two: each answer then holds in part."""

_SPREAD = Float(
    "spread",
    0.0,
    0.0,
    0.9,
    "How much the strength varies while learning, as a share of it: 0.5 is half to one and a half times. A network that "
    "met several strengths copes with more scans. Judged with the strength itself.",
    0.05,
)
_SCALE = "How many times finer"

DEGRADATIONS = Catalog(
    "degradation",
    (
        Part(
            "none",
            "None",
            "",
            "Nothing is taken away: the data set holds pairs, a poor scan and the good one that it should become.",
            (Int("scale", 1, 1, 4, f"{_SCALE} the grid of the good scan is than that of the poor one."),),
        ),
        Part(
            "noise",
            "Noise",
            "builder.degrade:noise",
            "Gaussian noise that grows with the signal, as a detector's does: variance = dark^2 + bright^2 * grey value.",
            (
                Float("dark", 0.03, 0.0, 0.5, "Standard deviation in black, as a share of the grey range.", 0.005),
                Float("bright", 0.08, 0.0, 0.5, "What white adds to it, as a share of the grey range.", 0.005),
                _SPREAD,
            ),
            "Noise",
            "gaussian poisson denoise dose",
        ),
        Part(
            "rician_noise",
            "Rician noise (MR)",
            "builder.degrade:rician_noise",
            "The noise of magnitude pictures in MR (Gudbjartsson 1995): Gaussian in bright tissue, a grey veil in the dark.",
            (
                Float("sigma", 0.05, 0.0, 0.5, "Of each channel of the signal, as a share of the grey range.", 0.005),
                _SPREAD,
            ),
            "Noise",
            "mri magnitude denoise",
        ),
        Part(
            "low_dose_ct",
            "Low dose (CT)",
            "builder.degrade:low_dose_ct",
            "The noise that a lower dose would add, in Hounsfield units: a stand-in, made in the picture, for counting fewer "
            "photons before the reconstruction. Streaks behind bone and metal are not imitated. Needs the window ct full.",
            (
                Float("dose", 0.25, 0.01, 0.95, "Share of the dose that is left; 0.25 is a quarter.", 0.05),
                Float(
                    "sigma_hu",
                    12.0,
                    0.5,
                    200.0,
                    "Noise of the scans as they are, in water. Added in water: this times sqrt(1 / dose - 1).",
                    0.5,
                    unit="HU",
                    title="Noise at full dose",
                ),
                Float(
                    "grain_px",
                    0.6,
                    0.0,
                    3.0,
                    "Size of its grain (the Gaussian that white noise is smoothed with): sharp kernels 0, soft ones 1.",
                    0.1,
                    unit="px",
                    title="Grain",
                ),
                _SPREAD,
            ),
            "Noise",
            "ldct quarter dose photon starvation hounsfield poisson",
        ),
        Part(
            "low_dose_ct_own",
            "Low dose (CT), by its own noise",
            "builder.degrade:low_dose_ct_own",
            "As much noise as a lower dose would add to each scan, which is told from the noise that it has itself: at a "
            "quarter of the dose its variance is four times as large, with the same grain. Nothing about the scans has to "
            "be known. A stand-in made in the picture, without streaks. Needs the window ct full.",
            (Float("dose", 0.25, 0.01, 0.95, "Share of the dose that is left; 0.25 is a quarter.", 0.05), _SPREAD),
            "Noise",
            "ldct quarter dose noise power spectrum nps texture hounsfield",
        ),
        Part(
            "kspace_truncation",
            "Fewer lines of k-space (MR)",
            "builder.degrade:kspace_truncation",
            "Keeps the middle of k-space and drops the fine detail around it, as a quicker MR scan does: softer, with ripples "
            "beside sharp edges (Gibbs).",
            (
                Float("kept", 0.5, 0.1, 0.95, "Share of the frequencies that is kept along each side.", 0.05),
                Float("sigma", 0.0, 0.0, 0.5, "Gaussian noise added, as a share of the grey range.", 0.005),
            ),
            "Detail",
            "mri undersampling gibbs ringing fourier acceleration",
        ),
        Part(
            "blur",
            "Blur",
            "builder.degrade:blur",
            "Softens with a Gaussian, as a broad focus or a soft kernel does; with a little noise, without which there would "
            "be nothing hard to undo.",
            (
                Float("sigma_px", 1.2, 0.1, 5.0, "Of the Gaussian.", 0.1, unit="px"),
                Float("sigma", 0.005, 0.0, 0.5, "Gaussian noise added, as a share of the grey range.", 0.005),
                _SPREAD,
            ),
            "Detail",
            "deblur sharpen psf focus",
        ),
        Part(
            "downsample",
            "Coarser grid",
            "builder.degrade:downsample",
            "Makes the pixels larger: each is the mean of those it covers. The network learns the way back "
            "(super-resolution); its picture is finer than the scan it is given.",
            (
                Int("scale", 2, 2, 4, f"{_SCALE} the grid of the answer is: 2 or 4 are usual."),
                Float("sigma", 0.0, 0.0, 0.5, "Gaussian noise added, as a share of the grey range.", 0.005),
            ),
            "Detail",
            "super-resolution upscale enlarge resolution",
        ),
    ),
)
"""How a clean scan is made poor, for image enhancement to learn the way back. `builder.degrade` does it."""

OWN_NOISE = ("low_dose_ct_own",)
"""Degradations that go by the noise which each scan has itself: patches bring that of their scan with them."""
HOUNSFIELD = ("low_dose_ct", "low_dose_ct_own")
"""Degradations that are stated in Hounsfield units."""

__all__ = ["AUGMENTATIONS", "DEGRADATIONS", "HOUNSFIELD", "MIXING", "OWN_NOISE", "PREPARE", "WINDOWS"]
