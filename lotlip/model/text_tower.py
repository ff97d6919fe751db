"""BERT as a text tower with corner tokens, read out at `[CLS]` and at the corners.

Shapes: B texts, L ids a text, m corner tokens, R read-out rows, H width of the tower, D shared width.

With the corner mask, `[CLS]` and each corner attend to themselves and the text, text attends to `[CLS]` and
text, and nothing attends to `[PAD]`. So `[CLS]` and text never see a corner: where only `[CLS]` is read the
corners are left out, exactly, as long as the text keeps its position ids.

The rows that are read come first, so the last layer computes its queries and its dense part for them alone.

Source: LoTLIP, arXiv:2410.05249, section 3; released evaluation code.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertModel

from lotlip.errors import ShapeError
from lotlip.model.config import LotlipConfig


class TextTower(nn.Module):
    """BERT, its pooler (dense + tanh), and a projection without bias."""

    def __init__(self, config: LotlipConfig) -> None:
        super().__init__()
        self.num_corners = config.num_corner_tokens
        self.corner_mask = config.corner_mask
        self.token_limit = config.token_limit
        self.first_corner_id = config.first_corner_id
        self.bert = BertModel._from_config(config.text_config)
        self.projection = nn.Linear(config.text_config.hidden_size, config.embed_dim, bias=False)

    def encode_classes(self, ids_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """The `[CLS]` feature of each text.

        Args:
            ids_BL: ids with the corners in place, int64 [B, L].
            mask_BL: nonzero where there is a token; by default where ids are not `[PAD]`.

        Returns:
            Features [B, D], not normalised.

        Raises:
            ShapeError: wrong shapes, too long texts, or ids without the corners.
        """
        if self.num_corners and not self.corner_mask:
            return self.encode_slots(ids_BL, mask_BL)[:, 0]
        ids_BL, keep_BL = self._check(ids_BL, mask_BL)
        positions = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        if self.num_corners:
            ids_BL, keep_BL, positions = (_drop_corners(x, self.num_corners) for x in (ids_BL, keep_BL, positions))
        states_BRH = self._read(ids_BL, positions, _padding_mask(keep_BL, self._dtype), num_rows=1)
        return self._project(states_BRH)[:, 0]

    def encode_slots(self, ids_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """The features of each text at `[CLS]` and at each corner, [B, 1 + m, D], not normalised.

        Arguments and errors are those of `encode_classes`.
        """
        ids_BL, keep_BL = self._check(ids_BL, mask_BL)
        positions = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        if self.corner_mask:
            mask = corner_attention_mask(keep_BL, self.num_corners, self._dtype)
        else:
            mask = _padding_mask(keep_BL, self._dtype)
        return self._project(self._read(ids_BL, positions, mask, num_rows=1 + self.num_corners))

    @property
    def _dtype(self) -> torch.dtype:
        return self.projection.weight.dtype

    def _check(self, ids_BL: Tensor, mask_BL: Tensor | None) -> tuple[Tensor, Tensor]:
        if ids_BL.ndim != 2 or 0 in ids_BL.shape or (mask_BL is not None and mask_BL.shape != ids_BL.shape):
            raise ShapeError(
                f"input_ids {tuple(ids_BL.shape)} and attention_mask "
                f"{None if mask_BL is None else tuple(mask_BL.shape)}: expected one and the same [B, L]."
            )
        if ids_BL.shape[1] > self.token_limit:
            raise ShapeError(
                f"Texts have {ids_BL.shape[1]} ids and the model's limit is {self.token_limit}: let its "
                "processor truncate them, or train with a higher token_limit."
            )
        keep_BL = (ids_BL != self.bert.config.pad_token_id) if mask_BL is None else mask_BL != 0
        if torch.compiler.is_compiling():
            return ids_BL, keep_BL
        self._check_corners(ids_BL)
        length = int(keep_BL.any(dim=0).nonzero().max()) + 1 if bool(keep_BL.any()) else 1
        return ids_BL[:, :length], keep_BL[:, :length]

    def _check_corners(self, ids_BL: Tensor) -> None:
        first, count = self.first_corner_id, self.num_corners
        corners = torch.arange(first, first + count, device=ids_BL.device)
        if ids_BL.shape[1] < count + 2 or not bool((ids_BL[:, 1 : 1 + count] == corners).all()):
            raise ShapeError(
                f"input_ids lack the {count} corner tokens (ids {first} to {first + count - 1}) after [CLS]; "
                f"the first text starts with {ids_BL[0, : 2 + count].tolist()}. Make ids with the model's "
                "processor."
            )

    def _read(self, ids_BL: Tensor, positions_L: Tensor, mask: Tensor, num_rows: int) -> Tensor:
        """Final states of the first `num_rows` positions, [B, R, H]; `mask` is added to attention scores."""
        states = self.bert.embeddings(
            input_ids=ids_BL, position_ids=positions_L[None], token_type_ids=torch.zeros_like(ids_BL)
        )
        layers = self.bert.encoder.layer
        for i, layer in enumerate(layers):
            rows = num_rows if i == len(layers) - 1 else states.shape[1]
            if layer.gradient_checkpointing and self.training:
                states = layer._gradient_checkpointing_func(_layer, layer, states, mask, rows)
            else:
                states = _layer(layer, states, mask, rows)
        result: Tensor = states
        return result

    def _project(self, states_BRH: Tensor) -> Tensor:
        pooled = self.bert.pooler.activation(self.bert.pooler.dense(states_BRH))
        projected: Tensor = self.projection(pooled)
        return projected


def corner_attention_mask(keep_BL: Tensor, num_corners: int, dtype: torch.dtype) -> Tensor:
    """The corner mask, added to attention scores.

    Args:
        keep_BL: true where there is a token, bool [B, L]; position 0 is `[CLS]`, 1 to m are the corners.
        num_corners: m.
        dtype: of the attention scores.

    Returns:
        [B, 1, L, L] (query, key): 0 where the query attends to the key, the dtype's minimum elsewhere. A
        float mask, because transformers' eager attention adds a bool mask instead of applying it.
    """
    positions = torch.arange(keep_BL.shape[1], device=keep_BL.device)
    is_text = positions > num_corners
    attends = is_text[None, :] | (positions[:, None] == positions[None, :])
    attends = attends | (is_text[:, None] & (positions == 0)[None, :])
    return _as_scores(attends & keep_BL[:, None, None, :], dtype)


def _padding_mask(keep_BL: Tensor, dtype: torch.dtype) -> Tensor:
    return _as_scores(keep_BL[:, None, None, :], dtype)


def _as_scores(attends: Tensor, dtype: torch.dtype) -> Tensor:
    zero = torch.zeros((), dtype=dtype, device=attends.device)
    return torch.where(attends, zero, torch.finfo(dtype).min)


def _drop_corners(values: Tensor, num_corners: int) -> Tensor:
    return torch.cat([values[..., :1], values[..., 1 + num_corners :]], dim=-1)


def _layer(layer: Any, states_BLH: Tensor, mask: Tensor, num_rows: int) -> Tensor:
    """One BERT layer for its first `num_rows` positions, which attend to all."""
    attention = layer.attention.self
    rows = states_BLH[:, :num_rows]
    query, key, value = (
        dense(x).unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)
        for dense, x in ((attention.query, rows), (attention.key, states_BLH), (attention.value, states_BLH))
    )
    context = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask[:, :, :num_rows].to(query.dtype),
        dropout_p=attention.dropout.p if layer.training else 0.0,
    )
    attended = layer.attention.output(context.transpose(1, 2).flatten(2), rows)
    output: Tensor = layer.feed_forward_chunk(attended)
    return output
