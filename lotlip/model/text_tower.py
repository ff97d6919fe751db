"""Text towers: packed transformers that give a feature of a text, of each of its corners, or of each token.

Two kinds. `BertTower` is LoTLIP's: BERT with corner tokens, read at `[CLS]` and at the corners. `CausalTower` is
CLIP's: each token sees those before it, and the last one is read.

Shapes: B texts, L ids a text, T rows (tokens of all texts), Q rows that are read, m corner tokens, H width of the
tower, D shared width.

The last layer computes its queries and its dense part for the rows that are read alone.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import BertModel, CLIPTextModel

from lotlip.errors import ModelError, ShapeError
from lotlip.model.config import LotlipConfig
from lotlip.model.packed_layers import PackedBertLayer, PackedClipLayer, run_packed
from lotlip.model.packing import Attention, Packing, eager, pack


def build_text_tower(config: LotlipConfig) -> "TextTower":
    """A tower with fresh weights for `config.text_config`.

    Raises:
        ModelError: towers of this type are not known.
    """
    kind = config.text_config.model_type
    if kind not in KINDS:
        raise ModelError(f"A text tower of type {kind!r} is not known; known are {', '.join(KINDS)}.")
    return KINDS[kind](config)


class TextTower(nn.Module, ABC):
    """What both kinds share: checks of ids, packing, layers, and a projection without bias.

    Ids are int64 [B, L], corners in place, as the processor makes them; a mask [B, L] is nonzero where there is a
    token (without one: wherever ids are not `[PAD]`). Features are not normalised.
    """

    words: ClassVar[str]  # the embedding of ids, a part of the transformer
    num_corners = 0
    pad_id: int

    def __init__(self, config: LotlipConfig) -> None:
        super().__init__()
        self.token_limit = config.token_limit
        self.pad_id = config.text_config.pad_token_id
        self.projection = nn.Linear(config.text_config.hidden_size, config.embed_dim, bias=False)

    @property
    @abstractmethod
    def transformer(self) -> nn.Module:
        """The transformer as it is found in checkpoints."""

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The embedding of ids."""
        found = self.transformer.get_submodule(self.words)
        assert isinstance(found, nn.Embedding)
        return found

    @abstractmethod
    def encode_classes(self, ids_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """The feature of each text [B, D].

        Raises:
            ShapeError: wrong shapes, too long or empty texts, or ids without the corners.
        """

    def encode_slots(self, ids_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """The features of each text: its own and those of its corners, [B, 1 + m, D]; errors as above."""
        return self.encode_classes(ids_BL, mask_BL)[:, None]

    def encode_tokens(self, ids_BL: Tensor, mask_BL: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The feature of each token [B, L', D], zero where there is none, and where there is one, bool [B, L'].

        L' is the longest text of the batch; errors as above.
        """
        keep_BL = self._check(ids_BL, mask_BL)
        texts = pack(keep_BL)
        features_TD = self._head(self._run(ids_BL, texts, None, self.num_corners))
        features = features_TD.new_zeros(keep_BL.numel(), features_TD.shape[1]).index_copy(0, texts.rows, features_TD)
        length = int(keep_BL.any(dim=0).nonzero().max()) + 1
        return features.view(*keep_BL.shape, -1)[:, :length], keep_BL[:, :length]

    def _run(self, ids_BL: Tensor, texts: Packing, read: Tensor | None, num_corners: int) -> Tensor:
        """Final states [Q, H] of the rows `read` (None: all) of packed ids."""
        states = self._embed(ids_BL.flatten()[texts.rows], texts.rows % ids_BL.shape[1])
        attend = self._attention(texts, num_corners)
        layers = self._layers()
        for i, layer in enumerate(layers):
            states = layer(states, attend, read if i == len(layers) - 1 else None)
        result: Tensor = states
        return result

    def _check(self, ids_BL: Tensor, mask_BL: Tensor | None) -> Tensor:
        """Where there are tokens, bool [B, L]."""
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
        self._check_ids(ids_BL)
        return self._tokens(ids_BL) if mask_BL is None else mask_BL != 0

    @eager
    def _check_ids(self, ids_BL: Tensor) -> None:
        size = self.word_embeddings.num_embeddings
        if ids_BL.is_floating_point():
            raise ShapeError(
                f"input_ids are {ids_BL.dtype}; expected whole numbers, as the model's processor makes them."
            )
        lowest, highest = (int(each) for each in ids_BL.aminmax())
        if lowest < 0 or highest >= size:
            raise ShapeError(
                f"input_ids run from {lowest} to {highest} and the model knows 0 to {size - 1}: make them with its own "
                "processor."
            )

    def _tokens(self, ids_BL: Tensor) -> Tensor:
        return ids_BL != self.pad_id

    @abstractmethod
    def _layers(self) -> Any:
        """The layers, of a kind in `packed_layers`."""

    @abstractmethod
    def _embed(self, ids_T: Tensor, positions_T: Tensor) -> Tensor:
        """Input states [T, H]."""

    @abstractmethod
    def _attention(self, texts: Packing, num_corners: int) -> Attention:
        """What each row sees; `num_corners` corners are among the rows."""

    @abstractmethod
    def _head(self, states_QH: Tensor) -> Tensor:
        """Features [Q, D] of final states."""


class BertTower(TextTower):
    """BERT with corner tokens, its pooler (dense + tanh) and the projection.

    With the corner mask, `[CLS]` and each corner attend to themselves and the text, text attends to `[CLS]` and text.
    So `[CLS]` and text never see a corner: where only `[CLS]` is read the corners are left out, exactly, as long as
    the text keeps its position ids. Without the mask (an ablation) everything attends to everything.

    Source: LoTLIP, arXiv:2410.05249, section 3; released evaluation code.
    """

    words = "embeddings.word_embeddings"

    def __init__(self, config: LotlipConfig) -> None:
        super().__init__(config)
        self.num_corners = config.num_corner_tokens
        self.corner_mask = config.corner_mask
        self.first_corner_id = config.first_corner_id
        self.bert: Any = BertModel._from_config(config.text_config)
        run_packed(self._layers(), PackedBertLayer)

    def encode_classes(self, ids_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        keep_BL = self._check(ids_BL, mask_BL)
        masked = self.corner_mask or not self.num_corners
        if masked:
            places = torch.arange(ids_BL.shape[1], device=ids_BL.device)
            keep_BL = keep_BL & ((places == 0) | (places > self.num_corners))
        texts = pack(keep_BL)
        states_BH = self._run(ids_BL, texts, texts.first(1), 0)
        return texts.unsort(self._head(states_BH))

    def encode_slots(self, ids_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        num_slots = 1 + self.num_corners
        texts = pack(self._check(ids_BL, mask_BL))
        states_QH = self._run(ids_BL, texts, texts.first(num_slots), self.num_corners)
        return texts.unsort(self._head(states_QH).view(len(ids_BL), num_slots, -1))

    @property
    def transformer(self) -> nn.Module:
        found: nn.Module = self.bert
        return found

    def _check(self, ids_BL: Tensor, mask_BL: Tensor | None) -> Tensor:
        keep_BL = super()._check(ids_BL, mask_BL)
        self._check_corners(ids_BL)
        return keep_BL

    @eager
    def _check_corners(self, ids_BL: Tensor) -> None:
        first, count = self.first_corner_id, self.num_corners
        corners = torch.arange(first, first + count, device=ids_BL.device)
        if ids_BL.shape[1] < count + 2 or not bool((ids_BL[:, 1 : 1 + count] == corners).all()):
            raise ShapeError(
                f"input_ids lack the {count} corner tokens (ids {first} to {first + count - 1}) after [CLS]; "
                f"the first text starts with {ids_BL[0, : 2 + count].tolist()}. Make ids with the model's "
                "processor."
            )

    def _layers(self) -> Any:
        return self.bert.encoder.layer

    def _embed(self, ids_T: Tensor, positions_T: Tensor) -> Tensor:
        parts = self.bert.embeddings
        words = parts.word_embeddings(ids_T) + parts.position_embeddings(positions_T)
        embedded: Tensor = parts.dropout(parts.LayerNorm(words + parts.token_type_embeddings.weight[0]))
        return embedded

    def _attention(self, texts: Packing, num_corners: int) -> Attention:
        config = self.bert.config
        dropout = config.attention_probs_dropout_prob if self.training else 0.0
        corners = num_corners if self.corner_mask else 0
        return Attention(texts, config.num_attention_heads, num_corners=corners, dropout=dropout)

    def _head(self, states_QH: Tensor) -> Tensor:
        pooler = self.bert.pooler
        projected: Tensor = self.projection(pooler.activation(pooler.dense(states_QH)))
        return projected


class CausalTower(TextTower):
    """CLIP's text transformer, read at its last token (the end token) after the final norm.

    Source: CLIP, arXiv:2103.00020, section 2.4.
    """

    words = "embeddings.token_embedding"

    def __init__(self, config: LotlipConfig) -> None:
        super().__init__(config)
        self.clip: Any = CLIPTextModel._from_config(config.text_config)
        run_packed(self._layers(), PackedClipLayer)

    def encode_classes(self, ids_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        texts = pack(self._check(ids_BL, mask_BL))
        return texts.unsort(self._head(self._run(ids_BL, texts, texts.last(), 0)))

    @property
    def transformer(self) -> nn.Module:
        found: nn.Module = self.clip
        return found

    def _tokens(self, ids_BL: Tensor) -> Tensor:
        end: int = self.clip.config.eos_token_id
        if self.pad_id != end:
            return ids_BL != self.pad_id
        ends = (ids_BL == end).int()  # CLIP's tokenizer pads with end tokens: the first one belongs to the text
        return ends.cumsum(dim=1) - ends == 0

    def _layers(self) -> Any:
        return self.clip.encoder.layers

    def _embed(self, ids_T: Tensor, positions_T: Tensor) -> Tensor:
        parts = self.clip.embeddings
        embedded: Tensor = parts.token_embedding(ids_T) + parts.position_embedding(positions_T)
        return embedded

    def _attention(self, texts: Packing, num_corners: int) -> Attention:
        config = self.clip.config
        dropout = config.attention_dropout if self.training else 0.0
        return Attention(texts, config.num_attention_heads, causal=True, dropout=dropout)

    def _head(self, states_QH: Tensor) -> Tensor:
        projected: Tensor = self.projection(self.clip.final_layer_norm(states_QH))
        return projected


KINDS: dict[str, type[TextTower]] = {"bert": BertTower, "clip_text_model": CausalTower}
