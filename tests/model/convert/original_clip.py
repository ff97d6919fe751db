"""CLIP as OpenAI published it, written down plainly under its own parameter names: what conversion must reproduce.

Source: CLIP, arXiv:2103.00020, section 2.4; Long-CLIP, arXiv:2403.15378, section 3.2.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, activation: nn.Module) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        parts = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", activation), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(parts))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, activation: nn.Module) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Block(width, heads, activation) for _ in range(layers)])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self, width: int, heads: int, embed: int, activation: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 8, stride=8, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn(5, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, 2, heads, activation)
        self.proj = nn.Parameter(torch.randn(width, embed) / 5)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class OriginalClip(nn.Module):
    """Image side 16 in patches of 8; the end token is the highest id, ids are padded with 0."""

    def __init__(self, vocab: int = 50, positions: int = 12, long: bool = False, activation: nn.Module | None = None):
        super().__init__()
        activation = activation or QuickGELU()
        self.visual = Visual(24, 2, 20, activation)
        self.transformer = Transformer(16, 3, 2, activation)
        self.token_embedding = nn.Embedding(vocab, 16)
        self.positional_embedding = nn.Parameter(torch.randn(positions, 16))
        if long:
            self.positional_embedding_res = nn.Parameter(torch.randn(positions, 16))
        self.ln_final = nn.LayerNorm(16)
        self.text_projection = nn.Parameter(torch.randn(16, 20) / 4)
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def encode_image(self, pixels: Tensor) -> Tensor:
        return self.visual(pixels)

    def encode_text(self, ids: Tensor) -> Tensor:
        positions = self.positional_embedding
        if hasattr(self, "positional_embedding_res"):
            is_kept = torch.arange(len(positions))[:, None] < 20
            positions = torch.where(is_kept, positions, self.positional_embedding_res)
        length = ids.shape[1]
        causal = torch.full((length, length), -torch.inf).triu(1)
        x = self.transformer(self.token_embedding(ids) + positions[:length], causal)
        return self.ln_final(x)[torch.arange(len(x)), ids.argmax(dim=1)] @ self.text_projection
