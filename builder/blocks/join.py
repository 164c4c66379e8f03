"""Joins of several tensors."""

import torch
from torch import nn


class Add(nn.Module):
    """Sum of two or more tensors of one shape: the skip connection."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        if any(x.shape != inputs[0].shape for x in inputs):
            shapes = " and ".join(str(tuple(x.shape[1:])) for x in inputs)
            raise ValueError(f"Add needs inputs of one shape; it got {shapes}.")
        return torch.stack(inputs).sum(0) if len(inputs) > 2 else inputs[0] + inputs[1]


class Concatenate(nn.Module):
    """Two or more tensors joined along dimension 1 (channels or features); their other sizes must agree."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        if any(x.dim() != inputs[0].dim() or x.shape[2:] != inputs[0].shape[2:] for x in inputs):
            shapes = " and ".join(str(tuple(x.shape[1:])) for x in inputs)
            raise ValueError(f"Concatenate needs inputs of one height and width; it got {shapes}.")
        return torch.cat(inputs, dim=1)
