"""Attention: every step of a sequence looks at all others."""

from builder.catalog import Float, Int, LayerSpec, OneOf

_HEADS = Int("heads", 4, 1, 64, "Separate looks side by side; must divide the features.", log=True)

PARTS = (
    LayerSpec(
        "patch_embedding",
        "Patch embedding",
        "builder.blocks.attention:PatchEmbedding",
        "Cuts the picture into square patches and makes each a vector (Dosovitskiy 2021, ViT): the first layer of a vision "
        "transformer. Positional encoding comes next.",
        (
            Int("patch_size", 8, 1, 128, "Side of a patch; must divide height and width.", unit="px"),
            Int("features", 64, 1, 4096, "Numbers that describe each patch.", log=True),
        ),
        "Attention",
        "vit vision transformer tokens patches",
        inferred={"in_channels": "channels"},
        takes=("maps",),
    ),
    LayerSpec(
        "positional_encoding",
        "Positional encoding",
        "builder.blocks.attention:PositionalEncoding",
        "Tells each step where it stands by adding a pattern of its own (Vaswani 2017): attention alone knows no order.",
        (
            OneOf(
                "kind", "sinusoidal", ("sinusoidal", "learned"), "Fixed waves, or a learned vector for each position."
            ),
        ),
        "Attention",
        "position order transformer vit embedding sine",
        inferred={"length": "steps", "features": "features"},
        takes=("sequence",),
    ),
    LayerSpec(
        "self_attention",
        "Self-attention",
        "builder.blocks.attention:SelfAttention",
        "Every step gathers what it needs from all steps (Vaswani 2017, multi-head attention). With a shortcut around it "
        "(Add) it learns best.",
        (_HEADS, Float("dropout", 0.0, 0.0, 0.9, "Share of attention weights dropped.", 0.05)),
        "Attention",
        "multi-head attention transformer mha query key value",
        inferred={"features": "features"},
        takes=("sequence",),
    ),
    LayerSpec(
        "transformer_block",
        "Transformer block",
        "builder.blocks.attention:TransformerBlock",
        "Self-attention and a small network for each step, with shortcuts and layer norms (Vaswani 2017; norm first as in "
        "ViT). Stack several.",
        (
            _HEADS,
            Int("mlp_ratio", 4, 1, 16, "Width of the small network, in multiples of the features.", title="MLP ratio"),
            Float("dropout", 0.0, 0.0, 0.9, "Share of values and attention weights dropped.", 0.05),
            Float(
                "drop_path",
                0.0,
                0.0,
                0.9,
                "How often each half is left out for a scan in training (Huang 2016): less learning by heart.",
                0.05,
                title="Stochastic depth",
            ),
        ),
        "Attention",
        "encoder transformer vit multi-head self-attention",
        inferred={"features": "features"},
        takes=("sequence",),
    ),
)
