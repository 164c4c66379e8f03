"""Convolutions (learned filters that slide over the input), and what makes pictures larger again."""

from builder.catalog import Flag, Idle, Int, LayerSpec, OneOf

_CHANNELS = Int("out_channels", 16, 1, 4096, "Number of filters = channels that come out.", log=True)
_BIAS = Flag("bias", True, "Adds a learned constant to each filter; needless right before a batch norm.")
_GROUPS = Int(
    "groups", 1, 1, 4096, "Channels are split into this many separate groups; must divide both counts.", log=True
)


def _filter(unit: str, halves: str, kernel: int = 3, most: int = 31) -> tuple[Int, ...]:
    """Kernel, stride, padding and dilation of a convolution whose positions are counted in `unit`."""
    side = "Steps that each filter sees at once." if unit == "steps" else "Side of each filter."
    return (
        Int("kernel_size", kernel, 1, most, side, unit=unit),
        Int("stride", 1, 1, 16, f"Step between two positions; 2 halves {halves}.", unit=unit),
        Int("padding", 1, 0, 64, "Border added on each side; kernel // 2 keeps the size at stride 1.", unit=unit),
        Int("dilation", 1, 1, 32, "Gaps between filter points: a wider view for the same cost.", unit=unit),
    )


def _grown(unit: str, doubles: str) -> tuple[Int, ...]:
    """Kernel, stride and paddings of a transposed convolution."""
    return (
        Int("kernel_size", 2, 1, 31, "Side of the patch that each number is spread over.", unit=unit),
        Int("stride", 2, 1, 16, f"How many times larger it gets; 2 doubles {doubles}.", unit=unit),
        Int("padding", 0, 0, 64, "Border cut off on each side of the result.", unit=unit),
        Int("output_padding", 0, 0, 15, "Added to one side of the result; must be less than the stride.", unit=unit),
    )


_DEEP = (
    Int(
        "depth_kernel_size",
        0,
        0,
        15,
        "Kernel from slice to slice; 0 = as in the plane, 1 = each slice alone.",
        unit="slices",
    ),
    Int("depth_stride", 0, 0, 16, "Stride from slice to slice; 0 = as in the plane.", unit="slices"),
)

PARTS = (
    LayerSpec(
        "conv2d",
        "Convolution",
        "torch.nn:Conv2d",
        "Slides small learned filters over the picture; each answers to one pattern (an edge, a texture, a spot).",
        (_CHANNELS, *_filter("px", "height and width"), _GROUPS, _BIAS),
        "Convolution",
        "filter kernel feature dilated atrous grouped depthwise cnn 2-d strided",
        inferred={"in_channels": "channels"},
        takes=("maps",),
    ),
    LayerSpec(
        "conv1d",
        "Convolution 1-D",
        "builder.blocks.convolution:SequenceConv1d",
        "Slides small learned filters along a sequence; each answers to one pattern in time, whenever it comes.",
        (_CHANNELS, *_filter("steps", "the length"), _GROUPS, _BIAS),
        "Convolution",
        "filter kernel temporal time signal dilated atrous cnn",
        inferred={"in_channels": "features"},
        takes=("sequence",),
    ),
    LayerSpec(
        "conv3d",
        "Convolution 3-D",
        "builder.blocks.convolution:Conv3d",
        "Slides small learned filters through a volume: patterns that reach over several slices. Costly: begin small. Slices "
        "that lie farther apart than pixels may have a kernel and a stride of their own.",
        (_CHANNELS, *_filter("voxels", "depth, height and width", most=15), _GROUPS, _BIAS, *_DEEP),
        "Convolution",
        "filter kernel feature volumetric voxel dilated atrous grouped cnn ct mri",
        inferred={"in_channels": "channels"},
        takes=("volume",),
    ),
    LayerSpec(
        "depthwise_conv2d",
        "Depthwise convolution",
        "torch.nn:Conv2d",
        "Filters each channel alone, with one filter of its own (Howard 2017, MobileNet): very cheap, but mixes nothing; "
        "a 1x1 convolution usually follows.",
        (*_filter("px", "height and width"), _BIAS),
        "Convolution",
        "filter kernel mobilenet channelwise light cnn",
        inferred={"in_channels": "channels", "out_channels": "channels", "groups": "channels"},
        takes=("maps",),
    ),
    LayerSpec(
        "separable_conv2d",
        "Separable convolution",
        "builder.blocks.convolution:SeparableConv2d",
        "A depthwise convolution and a 1x1 convolution that mixes the channels (Chollet 2017, Xception): close to a full "
        "convolution at a fraction of its cost.",
        (_CHANNELS, *_filter("px", "height and width"), _BIAS),
        "Convolution",
        "filter kernel depthwise xception mobilenet light cnn",
        inferred={"in_channels": "channels"},
        takes=("maps",),
    ),
    LayerSpec(
        "transposed_conv2d",
        "Transposed convolution",
        "torch.nn:ConvTranspose2d",
        "Makes the picture larger with learned filters (Zeiler 2010): the way back up in a U-Net. A kernel that the stride "
        "divides leaves no checkerboard.",
        (_CHANNELS, *_grown("px", "height and width"), _BIAS),
        "Convolution",
        "deconvolution upsample enlarge upconvolution decoder u-net",
        inferred={"in_channels": "channels"},
        takes=("maps",),
    ),
    LayerSpec(
        "transposed_conv3d",
        "Transposed convolution 3-D",
        "builder.blocks.convolution:ConvTranspose3d",
        "Makes a volume larger with learned filters: the way back up in a 3-D U-Net (Cicek 2016).",
        (_CHANNELS, *_grown("voxels", "depth, height and width"), _BIAS, *_DEEP),
        "Convolution",
        "deconvolution upsample enlarge volumetric decoder u-net",
        inferred={"in_channels": "channels"},
        takes=("volume",),
    ),
    LayerSpec(
        "upsample",
        "Upsample",
        "builder.blocks.convolution:Upsample",
        "Makes the picture larger without learning anything: each pixel repeated, or values in between interpolated.",
        (
            Int("scale_factor", 2, 1, 16, "How many times higher and wider it gets."),
            OneOf(
                "mode",
                "nearest",
                ("nearest", "bilinear", "bicubic"),
                "How: repeat the nearest pixel, or interpolate between neighbours, in straight lines or smoothly.",
            ),
            Flag(
                "align_corners",
                False,
                "Keep the middles of the corner pixels where they are, as some decoders do, instead of the corners of the "
                "picture. Only where it interpolates.",
            ),
        ),
        "Resizing",
        "enlarge grow interpolate upscale decoder u-net nearest bilinear",
        takes=("maps",),
        idle=(Idle("align_corners", "mode", "nearest", "Repeated pixels have no corners to align: choose bilinear."),),
    ),
    LayerSpec(
        "upsample_3d",
        "Upsample 3-D",
        "torch.nn:Upsample",
        "Makes a volume larger without learning anything: each voxel repeated, or values in between interpolated.",
        (
            Int("scale_factor", 2, 1, 16, "How many times deeper, higher and wider it gets."),
            OneOf(
                "mode",
                "nearest",
                ("nearest", "trilinear"),
                "How: repeat the nearest voxel, or interpolate between them.",
            ),
        ),
        "Resizing",
        "enlarge grow interpolate upscale decoder u-net nearest trilinear volumetric",
        takes=("volume",),
    ),
    LayerSpec(
        "resize",
        "Resize",
        "builder.blocks.convolution:Resize",
        "Brings the picture to one height and width, whatever comes in: so that two layers can be joined.",
        (
            Int("height", 32, 1, 2048, "Height that comes out.", unit="px"),
            Int("width", 32, 1, 2048, "Width that comes out.", unit="px"),
            OneOf("mode", "bilinear", ("bilinear", "nearest"), "How: interpolate between pixels, or take the nearest."),
        ),
        "Resizing",
        "interpolate scale shrink enlarge match size",
        takes=("maps",),
    ),
    LayerSpec(
        "resize_3d",
        "Resize 3-D",
        "builder.blocks.convolution:Resize3d",
        "Brings a volume to one depth, height and width, whatever comes in: so that two layers can be joined.",
        (
            Int("depth", 16, 1, 1024, "Depth that comes out.", unit="voxels"),
            Int("height", 32, 1, 1024, "Height that comes out.", unit="voxels"),
            Int("width", 32, 1, 1024, "Width that comes out.", unit="voxels"),
            OneOf(
                "mode", "trilinear", ("trilinear", "nearest"), "How: interpolate between voxels, or take the nearest."
            ),
        ),
        "Resizing",
        "interpolate scale shrink enlarge match size volumetric",
        takes=("volume",),
    ),
    LayerSpec(
        "pixel_shuffle",
        "Pixel shuffle",
        "torch.nn:PixelShuffle",
        "Makes the picture larger out of its channels (Shi 2016): four channels become one of twice the height and width.",
        (
            Int(
                "upscale_factor",
                2,
                1,
                16,
                "How many times higher and wider; its square must divide the channels.",
                unit="",
            ),
        ),
        "Resizing",
        "enlarge upsample super-resolution subpixel depth to space",
        takes=("maps",),
    ),
    LayerSpec(
        "pixel_unshuffle",
        "Pixel unshuffle",
        "torch.nn:PixelUnshuffle",
        "Makes the picture smaller without losing a number: each square of pixels becomes as many channels (Shi 2016).",
        (Int("downscale_factor", 2, 1, 16, "How many times lower and narrower; must divide height and width."),),
        "Resizing",
        "shrink downsample space to depth",
        takes=("maps",),
    ),
    LayerSpec(
        "zero_pad",
        "Zero padding",
        "torch.nn:ZeroPad2d",
        "Puts a border of zeros around the picture.",
        (Int("padding", 1, 0, 256, "Width of the border on each side.", unit="px"),),
        "Resizing",
        "border pad margin frame",
        takes=("maps",),
    ),
    LayerSpec(
        "border",
        "Uneven border",
        "builder.blocks.border:Border",
        "Puts a border of its own width on each side of the picture, as TensorFlow's networks do before a stride of two.",
        (
            Int("left", 0, 0, 256, "Width of the border on the left.", unit="px"),
            Int("right", 1, 0, 256, "Width of the border on the right.", unit="px"),
            Int("top", 0, 0, 256, "Width of the border above.", unit="px"),
            Int("bottom", 1, 0, 256, "Width of the border below.", unit="px"),
            OneOf("fill", "zero", ("zero", "lowest"), "Zeros, or the lowest number, which a maximum never chooses."),
        ),
        "Resizing",
        "pad padding margin same asymmetric tensorflow keras",
        takes=("maps",),
    ),
    LayerSpec(
        "zero_pad_3d",
        "Zero padding 3-D",
        "torch.nn:ZeroPad3d",
        "Puts a border of zeros around a volume.",
        (Int("padding", 1, 0, 64, "Width of the border on each side.", unit="voxels"),),
        "Resizing",
        "border pad margin frame volumetric",
        takes=("volume",),
    ),
)
