"""Dropout in its forms: less learning by heart."""

from builder.catalog import Float, LayerSpec

_CHANNELS = Float("p", 0.1, 0.0, 0.95, "Share of channels that is dropped.", 0.05, title="Share dropped")

PARTS = (
    LayerSpec(
        "dropout",
        "Dropout",
        "torch.nn:Dropout",
        "Sets single values to zero at random in training (Srivastava 2014): less learning by heart.",
        (Float("p", 0.3, 0.0, 0.95, "Share that is dropped.", 0.05, title="Share dropped"),),
        "Regularization",
        "overfitting",
    ),
    LayerSpec(
        "channel_dropout",
        "Channel dropout",
        "torch.nn:Dropout2d",
        "Sets whole channels to zero at random in training (Tompson 2015); the right dropout between convolutions.",
        (_CHANNELS,),
        "Regularization",
        "overfitting spatial dropout",
        takes=("maps",),
    ),
    LayerSpec(
        "channel_dropout_1d",
        "Feature dropout 1-D",
        "builder.blocks.regularization:SequenceDropout1d",
        "Sets whole features of a sequence to zero, over all of its time, at random in training (Tompson 2015).",
        (Float("p", 0.1, 0.0, 0.95, "Share of features that is dropped.", 0.05, title="Share dropped"),),
        "Regularization",
        "overfitting spatial channel dropout temporal",
        takes=("sequence",),
    ),
    LayerSpec(
        "channel_dropout_3d",
        "Channel dropout 3-D",
        "torch.nn:Dropout3d",
        "Sets whole channels of a volume to zero at random in training (Tompson 2015); between 3-D convolutions.",
        (_CHANNELS,),
        "Regularization",
        "overfitting spatial dropout volumetric",
        takes=("volume",),
    ),
)
