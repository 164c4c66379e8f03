"""Every layer a user can pick. Pure data: adding a layer is adding one entry in the module of its kind.

A setting's name is the keyword argument of the layer's target; `inferred` arguments are filled in from the input.
"""

from builder.catalog import Catalog
from builder.parts.layers import (
    activation,
    attention,
    backbone,
    block,
    convolution,
    decoder,
    head,
    join,
    linear,
    normalization,
    pooling,
    recurrent,
    regularization,
    shape,
    unet,
)

LAYERS = Catalog(
    "layer",
    (
        *convolution.PARTS,
        *pooling.PARTS,
        *normalization.PARTS,
        *regularization.PARTS,
        *shape.PARTS,
        *linear.PARTS,
        *activation.PARTS,
        *join.PARTS,
        *recurrent.PARTS,
        *attention.PARTS,
        *block.PARTS,
        *backbone.PARTS,
        *decoder.PARTS,
        *unet.PARTS,
        *head.PARTS,
    ),
)
