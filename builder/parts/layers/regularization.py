"""Dropout in its forms: less learning by heart."""

from builder.catalog import Float, LayerSpec

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
        (Float("p", 0.1, 0.0, 0.95, "Share of channels that is dropped.", 0.05, title="Share dropped"),),
        "Regularization",
        "overfitting spatial dropout",
        takes=("maps",),
    ),
)
