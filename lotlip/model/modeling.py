"""`LotlipModel`: an image tower and a text tower with corner tokens, in one Hugging Face model.

Shapes: B images, K long texts an image, L ids a text, m corner tokens, N = 1 + K(m + 1) text features an
image, D shared width. Order of the N slots: the raw caption's `[CLS]`, then for each long text its `[CLS]`
and corners.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from lotlip.errors import ShapeError
from lotlip.model.config import LOGIT_SCALE_INIT, LOGIT_SCALE_MAX, LotlipConfig
from lotlip.model.image_tower import build_image_tower, image_features
from lotlip.model.text_tower import TextTower


@dataclass
class LotlipOutput(ModelOutput):  # type: ignore[misc]
    """Unit-length image_embeds [B, D] and text_embeds [B, N, D]; logit_scale, exponentiated (scalar)."""

    image_embeds: Tensor | None = None
    text_embeds: Tensor | None = None
    logit_scale: Tensor | None = None


class LotlipModel(PreTrainedModel):  # type: ignore[misc]
    """Dual encoder of images and texts.

    Raises:
        ModelError: the configuration contradicts itself.

    Source: LoTLIP, arXiv:2410.05249.
    """

    config_class = LotlipConfig
    base_model_prefix = "lotlip"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: LotlipConfig) -> None:
        config.check()
        super().__init__(config)
        self.image_tower = build_image_tower(config.vision_config)
        self.text_tower = TextTower(config)
        self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE_INIT))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings, corner tokens included."""
        embeddings: nn.Module = self.text_tower.bert.embeddings.word_embeddings
        return embeddings

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Unit-length `[CLS]` features of texts.

        Args:
            input_ids: ids with corners in place, as the processor makes them, int64 [B, L].
            attention_mask: 1 where there is a token, [B, L]; by default wherever ids are not `[PAD]`.

        Returns:
            Float [B, D].

        Raises:
            ShapeError: wrong shapes, texts beyond the token limit, or ids without corners.
        """
        return functional.normalize(self.text_tower.encode_classes(input_ids, attention_mask), dim=-1)

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Unit-length features [B, D] of pixels [B, 3, S, S], as the processor makes them.

        Raises:
            ShapeError: the pixels are not of the tower's size.
        """
        return functional.normalize(image_features(self.image_tower, pixel_values), dim=-1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_embeds: Tensor | None = None,
    ) -> LotlipOutput:
        """Embed images and all their texts.

        Args:
            input_ids: raw captions [B, L], or [B, 1 + K, L]: an image's raw caption, then its long texts.
            attention_mask: as input_ids; by default wherever ids are not `[PAD]`.
            pixel_values: [B, 3, S, S], or instead
            image_embeds: image features computed before [B, D], normalised here.

        Raises:
            ShapeError: shapes that do not fit, too long texts, ids without corners.
        """
        if (pixel_values is None) == (image_embeds is None):
            raise ShapeError("Give the images as pixel_values or as image_embeds, one of the two.")
        if pixel_values is not None:
            image_BD = self.get_image_features(pixel_values)
        else:
            assert image_embeds is not None
            image_BD = functional.normalize(image_embeds, dim=-1)
        text_BND = self._encode_texts(input_ids, attention_mask)
        if image_BD.shape != (text_BND.shape[0], text_BND.shape[2]):
            raise ShapeError(
                f"Images {tuple(image_BD.shape)} do not fit texts {tuple(text_BND.shape)}: expected [B, D] "
                "and [B, N, D] with one image for each row of input_ids."
            )
        return LotlipOutput(image_embeds=image_BD, text_embeds=text_BND, logit_scale=self.logit_scale.exp())

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the logit scale in [1, 100]; called after each optimizer step."""
        self.logit_scale.clamp_(0.0, LOGIT_SCALE_MAX)

    def _encode_texts(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        if ids.ndim not in (2, 3) or (mask is not None and mask.shape != ids.shape):
            raise ShapeError(
                f"input_ids {tuple(ids.shape)}, attention_mask "
                f"{None if mask is None else tuple(mask.shape)}: expected the same [B, L] or [B, 1 + K, L]."
            )
        if ids.ndim == 2:
            ids, mask = ids[:, None], None if mask is None else mask[:, None]
        raw_BD = self.text_tower.encode_classes(ids[:, 0], None if mask is None else mask[:, 0])
        slots = [raw_BD[:, None]]
        if ids.shape[1] > 1:
            long_mask = None if mask is None else mask[:, 1:].flatten(0, 1)
            long = self.text_tower.encode_slots(ids[:, 1:].flatten(0, 1), long_mask)
            slots.append(long.reshape(len(ids), -1, long.shape[-1]))
        return functional.normalize(torch.cat(slots, dim=1), dim=-1)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.constant_(self.logit_scale, LOGIT_SCALE_INIT)


AutoConfig.register(LotlipConfig.model_type, LotlipConfig, exist_ok=True)
AutoModel.register(LotlipConfig, LotlipModel, exist_ok=True)
