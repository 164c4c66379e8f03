"""Last layers: what the network answers. (Class scores stand in `linear`.)"""

from builder.catalog import Flag, Float, Int, LayerSpec, OneOf

PARTS = (
    LayerSpec(
        "mask_scores",
        "Mask scores",
        "builder.blocks.head:MaskScores",
        "The usual last layer of segmentation: one score per class for every pixel of the scan.",
        (Flag("full_size", True, "Scale the scores up to the scan's height and width (bilinear)."),),
        "Heads",
        "segmentation head output mask pixel logits",
        inferred={"in_channels": "channels", "classes": "classes", "scan_size": "scan_size"},
        takes=("maps",),
    ),
    LayerSpec(
        "box_head",
        "Boxes",
        "builder.blocks.head:BoxHead",
        "The last layer of detection (FCOS, Tian 2019): every place of its maps tells a class, a box and how central it "
        "lies in it. One map, or several for lesions of several sizes.",
        (
            Int("hidden", 64, 32, 1024, "Channels inside; a multiple of 32.", step=32, title="Inner channels"),
            Int("num_convs", 2, 1, 8, "Convolutions in each of its two towers.", title="Convolutions"),
        ),
        "Heads",
        "detection head output bounding box lesion anchor-free fcos",
        inferred={"channels": "channels_each", "sizes": "sizes", "classes": "classes", "scan_size": "scan_size"},
        most=8,
        takes=("maps",),
        needs=("torchvision",),
    ),
    LayerSpec(
        "anchor_head",
        "Boxes from anchors",
        "builder.blocks.head:AnchorHead",
        "A last layer of detection (RetinaNet, Lin 2017): nine boxes of set sizes and shapes at every place, each told its "
        "class and how to move and stretch. Learns more slowly than boxes without anchors; good where sizes vary little.",
        (
            Int("hidden", 64, 32, 1024, "Channels inside; a multiple of 32.", step=32, title="Inner channels"),
            Int("num_convs", 2, 1, 4, "Convolutions in each of its two towers.", title="Convolutions"),
            Float("scale", 4.0, 0.5, 16.0, "Side of the smallest box in steps of its map; 4 as in the paper.", 0.5),
        ),
        "Heads",
        "detection head output bounding box lesion anchors retinanet",
        inferred={"channels": "channels_each", "sizes": "sizes", "classes": "classes", "scan_size": "scan_size"},
        most=8,
        takes=("maps",),
        needs=("torchvision",),
    ),
    LayerSpec(
        "type_and_outline",
        "Type and outline",
        "builder.blocks.head:TypeAndOutline",
        "The last layer of tumour diagnosis: one score per type, and the outline, pixel by pixel or voxel by voxel. First the "
        "fine maps of a decoder for the outline, then what tells the type: deep maps, or a vector (without, the same maps).",
        (
            OneOf(
                "pooling",
                "both",
                ("both", "mean", "max"),
                "How the type's maps become one vector: their mean, their maximum (a small tumour is not averaged away), "
                "or both side by side. A vector is taken as it is.",
            ),
            Float("dropout", 0.2, 0.0, 0.9, "Share of that vector dropped in training.", 0.05),
        ),
        "Heads",
        "tumor tumour diagnosis segmentation head output mask outline type benign malignant volume 3-d",
        inferred={"channels": "channels_each", "sizes": "extents", "classes": "classes", "scan_size": "scan_extent"},
        most=2,
        takes=("maps", "volume", "vector"),
    ),
    LayerSpec(
        "two_stage_head",
        "Boxes in two steps",
        "builder.blocks.head:TwoStageHead",
        "A last layer of detection (after Faster R-CNN, Ren 2015): a first stage proposes where anything lies, a second one "
        "looks at each proposal again on the finest map. Slower; good where lesions are easily taken for something else.",
        (
            Int("hidden", 64, 32, 1024, "Channels inside; a multiple of 32.", step=32, title="Inner channels"),
            Int("num_convs", 1, 1, 4, "Convolutions in each tower of the first stage.", title="Convolutions"),
            Int("proposals", 64, 8, 512, "How many places the second stage looks at.", log=True),
        ),
        "Heads",
        "detection head output bounding box lesion faster r-cnn proposals roi align two-stage",
        inferred={"channels": "channels_each", "sizes": "sizes", "classes": "classes", "scan_size": "scan_size"},
        most=8,
        takes=("maps",),
        needs=("torchvision",),
    ),
    LayerSpec(
        "image_head",
        "Image",
        "builder.blocks.head:ImageHead",
        "The last layer of enhancement: a picture with the scan's channels and size, or several times its size.",
        (
            Flag(
                "residual",
                False,
                "Learn only what to add to the scan (Zhang 2017): easier and safer for denoising. The scan is then the "
                "second input.",
                title="Learn the difference",
            ),
            Int(
                "scale",
                1,
                1,
                4,
                "How many times finer the picture is than the scan: 1, or that of the coarser grid (super-resolution).",
            ),
        ),
        "Heads",
        "enhancement denoise head output picture reconstruction residual",
        inferred={"channels": "channels_each", "scan_channels": "scan_channels", "scan_size": "scan_size"},
        most=2,
        takes=("maps",),
    ),
)
