"""Layers that read a sequence step by step, and what turns pictures and volumes into sequences."""

import torch
from torch import nn


class Recurrent(nn.Module):
    """A recurrent network over a sequence: vanilla RNN (Elman 1990), LSTM (Hochreiter 1997) or GRU (Cho 2014).

    Layers and directions are modules of their own (`runs`, layer by layer, forward before backward), so that truncated
    back-propagation through time (Williams and Peng 1990) works for all of them: in training, the state is cut from the
    gradient every `bptt` steps, counted from the end that the direction runs to. What comes out is the same for every
    `bptt`; outside training nothing is cut, so that what is asked of the gradient there hears every step.

    Args:
        features: F of the input. kind: "RNN", "LSTM" or "GRU". units: size of the state.
        layers: how many are stacked. bidirectional: each layer also reads from the end; both states side by side.
        dropout: share of values dropped between layers in training. output: "last state" or "all states".
        bptt: steps after which the gradient stops; 0 = none, the whole sequence.
        activation: "tanh" or "relu", of the vanilla RNN alone.
    Input shape: (B, T, features) float. Output shape, with W = units, or 2 * units where bidirectional: (B, W) for the
    last state (forward: after the last step; backward: after the first), (B, T, W) for all states.
    """

    def __init__(
        self,
        features: int,
        kind: str = "GRU",
        units: int = 64,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        output: str = "last state",
        bptt: int = 0,
        activation: str = "tanh",
    ):
        super().__init__()
        self.directions, self.output, self.bptt = 2 if bidirectional else 1, output, bptt
        special = {"nonlinearity": activation} if kind == "RNN" else {}
        self.runs = nn.ModuleList(
            getattr(nn, kind)(features if k == 0 else units * self.directions, units, batch_first=True, **special)
            for k in range(layers)
            for _ in range(self.directions)
        )
        self.drop = nn.Dropout(dropout)

    def read(self, run: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """All states of one direction of one layer: (B, T, F) -> (B, T, units)."""
        if not self.training or not 0 < self.bptt < x.shape[1]:
            return run(x)[0]
        first = (x.shape[1] - 1) % self.bptt + 1  # the short piece comes first: the last state learns from bptt steps
        states, state = [], None
        for piece in x.split([first] + [self.bptt] * ((x.shape[1] - first) // self.bptt), dim=1):
            if state is not None:
                state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
            out, state = run(piece, state)
            states.append(out)
        return torch.cat(states, dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ends = []
        for k in range(0, len(self.runs), self.directions):
            if k:
                x = self.drop(x)
            states = [self.read(self.runs[k], x)]
            ends = [states[0][:, -1]]
            if self.directions == 2:
                backward = self.read(self.runs[k + 1], x.flip(1))
                states.append(backward.flip(1))
                ends.append(backward[:, -1])
            x = torch.cat(states, dim=2) if self.directions == 2 else states[0]
        return x if self.output == "all states" else torch.cat(ends, dim=1)


class RowsAsSequence(nn.Module):
    """Reads a picture line by line: (B, C, H, W) -> (B, H, C * W) by rows, (B, W, C * H) by columns."""

    def __init__(self, order: str = "rows"):
        super().__init__()
        self.order = order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.order == "columns":
            return x.permute(0, 3, 1, 2).flatten(2)
        return x.transpose(1, 2).flatten(2)


class SlicesAsSequence(nn.Module):
    """A volume as its slices, one after another: (B, C, D, H, W) -> (B, D, C, H, W). Its own inverse."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


class SlicesAsChannels(nn.Module):
    """The slices of a series or a volume as channels of one picture: (B, S, C, H, W) -> (B, S * C, H, W)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1, 2)
