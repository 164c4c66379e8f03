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


class Multiply(nn.Module):
    """Product of two or more tensors, number by number: a gate. A size of 1 stretches to the others' size, so that one
    map of weights (B, 1, H, W) may weigh all channels."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        ranks = {x.dim() for x in inputs}
        if len(ranks) > 1 or any(len(set(size) - {1}) > 1 for size in zip(*(x.shape[1:] for x in inputs), strict=True)):
            shapes = " and ".join(str(tuple(x.shape[1:])) for x in inputs)
            raise ValueError(f"Multiply needs inputs of one shape (or sizes of 1); it got {shapes}.")
        product = inputs[0]
        for x in inputs[1:]:
            product = product * x
        return product


class Concatenate(nn.Module):
    """Two or more tensors joined along one dimension (1: channels, or features of vectors; 2: features of sequences);
    their other sizes must agree."""

    def __init__(self, dim: int = 1):
        super().__init__()
        self.dim = dim

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        rest = [[size for k, size in enumerate(x.shape) if k not in (0, self.dim)] for x in inputs]
        if any(x.dim() != inputs[0].dim() or sizes != rest[0] for x, sizes in zip(inputs, rest, strict=True)):
            shapes = " and ".join(str(tuple(x.shape[1:])) for x in inputs)
            what = "as many steps" if self.dim == 2 else "one height and width"
            raise ValueError(f"Concatenate needs inputs of {what}; it got {shapes}.")
        return torch.cat(inputs, dim=self.dim)
