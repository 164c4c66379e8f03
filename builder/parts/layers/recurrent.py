"""Recurrent networks: layers that read a sequence step by step and remember."""

from builder.catalog import Domain, Flag, Float, Idle, Int, LayerSpec, OneOf

_SETTINGS: tuple[Domain, ...] = (
    Int("units", 64, 1, 4096, "Size of its memory = features that come out of each direction.", log=True),
    Int("layers", 1, 1, 8, "How many are stacked on one another."),
    Flag("bidirectional", False, "Also reads from the end to the beginning; both answers come out side by side."),
    Float("dropout", 0.0, 0.0, 0.9, "Share of values dropped between stacked layers; needs two or more.", 0.05),
    OneOf(
        "output",
        "last state",
        ("last state", "all states"),
        "One vector after the whole sequence, or the state after every step (a sequence again).",
    ),
    Int(
        "bptt",
        0,
        0,
        1024,
        "Truncated back-propagation through time: errors travel back at most this many steps; 0 is all of them. Saves "
        "long sequences from vanishing and exploding gradients; what comes out stays the same.",
        unit="steps",
        title="Truncate at",
    ),
)
_IDLE = (
    Idle("dropout", "layers", 1, "Dropout lies between stacked layers, and there is only one: nothing is dropped."),
)
_TARGET = "builder.blocks.recurrent:Recurrent"
_FINDS = "rnn recurrent memory time sequence slices bidirectional bptt truncated"

PARTS = (
    LayerSpec(
        "rnn",
        "Vanilla RNN",
        _TARGET,
        "Reads a sequence step by step with the simplest of memories (Elman 1990). Forgets soon: GRU and LSTM remember "
        "longer.",
        (
            *_SETTINGS,
            OneOf("activation", "tanh", ("tanh", "relu"), "What its state goes through at each step."),
        ),
        "Recurrent",
        f"{_FINDS} simple elman",
        inferred={"features": "features"},
        fixed={"kind": "RNN"},
        takes=("sequence",),
        idle=_IDLE,
    ),
    LayerSpec(
        "lstm",
        "LSTM",
        _TARGET,
        "Reads a sequence step by step with a memory that gates protect (Hochreiter and Schmidhuber 1997): long memories.",
        _SETTINGS,
        "Recurrent",
        f"{_FINDS} long short-term memory gates bilstm",
        inferred={"features": "features"},
        fixed={"kind": "LSTM"},
        takes=("sequence",),
        idle=_IDLE,
    ),
    LayerSpec(
        "gru",
        "GRU",
        _TARGET,
        "Reads a sequence step by step with two gates (Cho 2014): remembers nearly like an LSTM with fewer weights. A good "
        "first choice over the slices of a series.",
        _SETTINGS,
        "Recurrent",
        f"{_FINDS} gated recurrent unit bigru",
        inferred={"features": "features"},
        fixed={"kind": "GRU"},
        takes=("sequence",),
        idle=_IDLE,
    ),
)
