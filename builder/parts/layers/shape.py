"""Layers that only lay out numbers anew."""

from builder.catalog import Int, LayerSpec, OneOf

PARTS = (
    LayerSpec(
        "flatten",
        "Flatten",
        "torch.nn:Flatten",
        "Lays the whole picture out as one long vector, so that linear layers can read it.",
        (),
        "Shape",
        "vector reshape",
        takes=("vector", "sequence", "maps", "volume"),
    ),
    LayerSpec(
        "rows_as_sequence",
        "Rows as a sequence",
        "builder.blocks.recurrent:RowsAsSequence",
        "Reads a picture line by line, for a recurrent layer or a transformer: each row (or column) is one step.",
        (OneOf("order", "rows", ("rows", "columns"), "What one step is: a row, top to bottom, or a column."),),
        "Shape",
        "scanline line by line columns recurrent reshape",
        takes=("maps",),
    ),
    LayerSpec(
        "slices_as_sequence",
        "Slices as a sequence",
        "builder.blocks.recurrent:SlicesAsSequence",
        "Takes a volume apart into its slices, one after another: the next layers then work on each slice alone, and a "
        "recurrent layer reads them in order.",
        (),
        "Shape",
        "volume series recurrent time reshape slice by slice",
        takes=("volume",),
        gives="series",
    ),
    LayerSpec(
        "slices_as_volume",
        "Slices as a volume",
        "builder.blocks.recurrent:SlicesAsSequence",
        "Stacks the slices of a series into one volume, for 3-D layers that look across slices.",
        (),
        "Shape",
        "series stack 3-d reshape",
        takes=("series",),
        gives="volume",
    ),
    LayerSpec(
        "slices_as_channels",
        "Slices as channels",
        "builder.blocks.recurrent:SlicesAsChannels",
        "Lays the slices of a series or volume over one another as channels of one picture (2.5-D): cheap, and a picture "
        "network sees them all at once.",
        (),
        "Shape",
        "2.5d series volume stack reshape",
        takes=("series", "volume"),
    ),
    LayerSpec(
        "tokens_to_maps",
        "Tokens to picture",
        "builder.blocks.attention:TokensToMaps",
        "Lays the steps of a sequence back out as a picture, row by row: the way back after a patch embedding.",
        (Int("rows", 0, 0, 2048, "Height of the picture; 0 makes it a square."),),
        "Shape",
        "unpatch reshape unflatten transformer vit map",
        takes=("sequence",),
    ),
)
