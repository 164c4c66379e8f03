"""Attention over sequences, and the way from pictures to sequences and back."""

import torch
from torch import nn

from builder.blocks.regularization import DropPath


class SelfAttention(nn.Module):
    """Multi-head self-attention: each step gathers what it needs from all steps (Vaswani et al. 2017).

    Args:
        features: F. heads: how many separate looks; must divide F. dropout: share of attention weights dropped in
            training.
    Input shape: (B, T, features) float. Output shape: the same.
    Raises: ValueError: the heads do not divide the features.
    """

    def __init__(self, features: int, heads: int = 4, dropout: float = 0.0):
        super().__init__()
        if features % heads:
            raise ValueError(f"{heads} heads do not divide {features} features.")
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value = (nn.Linear(features, features) for _ in range(3))
        self.out = nn.Linear(features, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        found = nn.functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out(found.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """One block of a transformer's encoder: self-attention, then a small network for each step; a layer norm before and
    a shortcut around both (Vaswani et al. 2017; norm first as in Xiong et al. 2020 and ViT, Dosovitskiy et al. 2021).

    Args:
        features: F. heads: must divide F. mlp_ratio: width of the small network, in multiples of F.
        dropout: share of attention weights, and of the values that each half adds, dropped in training.
        drop_path: how often each half is left out for a scan in training (stochastic depth, Huang 2016).
    Input shape: (B, T, features) float. Output shape: the same.
    Raises: ValueError: the heads do not divide the features.
    """

    PARTS = (DropPath,)  # an export writes its source, too

    def __init__(self, features: int, heads: int = 4, mlp_ratio: int = 4, dropout: float = 0.0, drop_path: float = 0.0):
        super().__init__()
        self.path = DropPath(drop_path)
        if features % heads:
            raise ValueError(f"{heads} heads do not divide {features} features.")
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(features), nn.LayerNorm(features)
        self.query, self.key, self.value = (nn.Linear(features, features) for _ in range(3))
        self.out = nn.Linear(features, features)
        self.mlp = nn.Sequential(
            nn.Linear(features, features * mlp_ratio), nn.GELU(), nn.Linear(features * mlp_ratio, features)
        )
        self.drop = nn.Dropout(dropout)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Multi-head self-attention: (B, T, F) -> (B, T, F)."""
        query, key, value = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        found = nn.functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out(found.transpose(1, 2).flatten(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.path(self.drop(self.attend(self.norm1(x))))
        return x + self.path(self.drop(self.mlp(self.norm2(x))))


class PatchEmbedding(nn.Module):
    """Cuts a picture into square patches and makes each a vector: a sequence of tokens, row by row (ViT, Dosovitskiy
    et al. 2021).

    Args:
        in_channels: C. patch_size: side of a patch in pixels; must divide height and width. features: F of a token.
    Input shape: (B, in_channels, H, W) float. Output shape: (B, (H / patch_size) * (W / patch_size), features).
    Raises: ValueError: the patches do not fill the picture.
    """

    def __init__(self, in_channels: int, patch_size: int = 8, features: int = 64):
        super().__init__()
        self.patch_size = patch_size
        self.project = nn.Conv2d(in_channels, features, patch_size, patch_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] % self.patch_size or x.shape[3] % self.patch_size:
            raise ValueError(f"Patches of {self.patch_size} px do not fill {x.shape[2]} x {x.shape[3]} px.")
        return self.project(x).flatten(2).transpose(1, 2)


class PositionalEncoding(nn.Module):
    """Adds to each step where it stands: attention itself does not know any order.

    Args:
        length: T. features: F.
        kind: "sinusoidal" (fixed waves of many lengths, Vaswani et al. 2017) or "learned" (a vector for each position).
    Input shape: (B, length, features) float. Output shape: the same.
    """

    def __init__(self, length: int, features: int, kind: str = "sinusoidal"):
        super().__init__()
        if kind == "learned":
            self.places = nn.Parameter(torch.randn(length, features) * 0.02)
            return
        half = (features + 1) // 2
        rates = 10_000.0 ** (-torch.arange(half) / half)
        angles = torch.arange(length)[:, None] * rates
        waves = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :features]
        self.register_buffer("places", waves, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.places


class TokensToMaps(nn.Module):
    """Lays tokens back out as a picture, row by row: (B, T, F) -> (B, F, rows, T / rows).

    Args:
        rows: height of the picture; 0 = a square.
    Raises: ValueError: the tokens do not fill it.
    """

    def __init__(self, rows: int = 0):
        super().__init__()
        self.rows = rows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.rows or round(x.shape[1] ** 0.5)
        if x.shape[1] % rows or (self.rows == 0 and rows * rows != x.shape[1]):
            raise ValueError(
                f"{x.shape[1]} tokens do not fill {self.rows} rows."
                if self.rows
                else f"{x.shape[1]} tokens do not fill a square."
            )
        return x.transpose(1, 2).unflatten(2, (rows, x.shape[1] // rows))
