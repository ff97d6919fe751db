"""`LotlipModel`: an image tower and a text tower, for LoTLIP with corner tokens, in one Hugging Face model.

Shapes: B images, K long texts an image, L ids a text, m corner tokens, N = 1 + K(m + 1) text features an
image, P patches, D shared width. Order of the N slots: the short text, then for each long text its own feature and
those of its corners.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from lotlip.errors import ModelError, ShapeError
from lotlip.model.config import LOGIT_SCALE_MAX, LotlipConfig
from lotlip.model.image_tower import build_image_tower, image_features
from lotlip.model.text_tower import build_text_tower


@dataclass
class LotlipOutput(ModelOutput):  # type: ignore[misc]
    """What `LotlipModel` returns; embeddings are of unit length.

    image_embeds [B, D], text_embeds [B, N, D]; with `token_features` instead image_embeds [B, P, D] (patches),
    text_embeds [B, L', D] (tokens) and text_keep, bool [B, L'], where there is a token. logit_scale (scalar,
    exponentiated) and logit_bias (scalar) where there is one.
    """

    # ModelOutput wants defaults; all but the optional ones are always there.
    image_embeds: Tensor = None  # type: ignore[assignment]
    text_embeds: Tensor = None  # type: ignore[assignment]
    logit_scale: Tensor = None  # type: ignore[assignment]
    text_keep: Tensor | None = None
    logit_bias: Tensor | None = None


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
        self.image_projection: nn.Module = nn.Identity()
        if config.image_projection:
            self.image_projection = nn.Linear(config.vision_config.hidden_size, config.embed_dim, bias=False)
        self.text_tower = build_text_tower(config)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init))
        self.logit_bias = None
        if config.logit_bias_init is not None:
            self.logit_bias = nn.Parameter(torch.tensor(config.logit_bias_init))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings, corner tokens included."""
        return self.text_tower.word_embeddings

    def enable_input_require_grads(self) -> None:
        """Nothing: checkpoints that are not reentrant do not need it, and a locked tower would keep its activations."""

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Unit-length features of texts.

        Args:
            input_ids: ids with corners in place, as the processor makes them, int64 [B, L].
            attention_mask: 1 where there is a token, [B, L]; by default wherever ids are not `[PAD]`.

        Returns:
            Float [B, D].

        Raises:
            ShapeError: wrong shapes, texts beyond the token limit or empty, or ids without corners.
            ModelError: the model compares tokens (`get_text_token_features`), or gives NaN.
        """
        self._refuse_tokens("text")
        features = self.text_tower.encode_classes(input_ids, attention_mask)
        return self._finite("text", functional.normalize(features, dim=-1))

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Unit-length features [B, D] of pixels [B, 3, S, S], as the processor makes them.

        Raises:
            ShapeError: the pixels are not of the tower's size.
            ModelError: the model compares patches (`get_image_token_features`), or gives NaN.
        """
        self._refuse_tokens("image")
        return self._finite("image", self._project(image_features(self.image_tower, pixel_values)))

    def get_text_token_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Unit-length features of every token [B, L', D], zero where there is none, and where there is one [B, L'].

        Arguments and errors are those of `get_text_features`; L' is the longest text of the batch.
        """
        features, keep = self.text_tower.encode_tokens(input_ids, attention_mask)
        return self._finite("text", functional.normalize(features, dim=-1)), keep

    def get_image_token_features(self, pixel_values: Tensor) -> Tensor:
        """Unit-length features of every patch [B, P, D] of pixels [B, 3, S, S]; errors as `get_image_features`."""
        return self._finite("image", self._project(image_features(self.image_tower, pixel_values, patches=True)))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_embeds: Tensor | None = None,
    ) -> LotlipOutput:
        """Embed images and all their texts.

        Args:
            input_ids: short texts [B, L], or [B, 1 + K, L]: an image's short text, then its long texts.
            attention_mask: as input_ids; by default wherever ids are not `[PAD]`.
            pixel_values: [B, 3, S, S], or instead
            image_embeds: what the image tower gave before, [B, H], or [B, P, H] with `token_features`; projected
                and normalised here.

        Raises:
            ShapeError: shapes that do not fit, too long or empty texts, ids without corners.
        """
        if (pixel_values is None) == (image_embeds is None):
            raise ShapeError("Give the images as pixel_values or as image_embeds, one of the two.")
        text_embeds, keep = self._encode_texts(input_ids, attention_mask)
        patches = self.config.token_features
        if pixel_values is not None:
            image_embeds = image_features(self.image_tower, pixel_values, patches=patches)
        assert image_embeds is not None
        width = self.config.vision_config.hidden_size
        if image_embeds.ndim != 2 + patches or image_embeds.shape[-1] != width or len(image_embeds) != len(input_ids):
            raise ShapeError(
                f"Image features {tuple(image_embeds.shape)} do not fit input_ids {tuple(input_ids.shape)}: expected "
                f"[{len(input_ids)}, {'P, ' if patches else ''}{width}], one image for each row of input_ids."
            )
        return LotlipOutput(
            image_embeds=self._project(image_embeds),
            text_embeds=functional.normalize(text_embeds, dim=-1),
            text_keep=keep,
            logit_scale=self.logit_scale.exp(),
            logit_bias=self.logit_bias,
        )

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the logit scale in [1, 100]; called after each optimizer step."""
        self.logit_scale.clamp_(0.0, LOGIT_SCALE_MAX)

    def _encode_texts(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if ids.ndim not in (2, 3) or (mask is not None and mask.shape != ids.shape):
            raise ShapeError(
                f"input_ids {tuple(ids.shape)}, attention_mask "
                f"{None if mask is None else tuple(mask.shape)}: expected the same [B, L] or [B, 1 + K, L]."
            )
        if ids.ndim == 2:
            ids, mask = ids[:, None], None if mask is None else mask[:, None]
        short_mask = None if mask is None else mask[:, 0]
        if self.config.token_features:
            if ids.shape[1] > 1:
                raise ShapeError(
                    f"input_ids {tuple(ids.shape)}: a model that compares tokens takes one text an image, [B, L]."
                )
            return self.text_tower.encode_tokens(ids[:, 0], short_mask)
        slots = [self.text_tower.encode_classes(ids[:, 0], short_mask)[:, None]]
        if ids.shape[1] > 1:
            long_mask = None if mask is None else mask[:, 1:].flatten(0, 1)
            long = self.text_tower.encode_slots(ids[:, 1:].flatten(0, 1), long_mask)
            slots.append(long.reshape(len(ids), -1, long.shape[-1]))
        return torch.cat(slots, dim=1), None

    def _project(self, features: Tensor) -> Tensor:
        return functional.normalize(self.image_projection(features), dim=-1)

    def _refuse_tokens(self, what: str) -> None:
        if self.config.token_features:
            raise ModelError(
                f"This model compares tokens with patches: use get_{what}_token_features, and "
                "lotlip.losses.late_interaction for the scores."
            )

    def _finite(self, what: str, features: Tensor) -> Tensor:
        """The features, refused if any is NaN; in training they pass, since the trainer counts such steps."""
        if not self.training and not torch.compiler.is_compiling() and not bool(features.isfinite().all()):
            bad = int((~features.isfinite()).flatten(1).any(dim=1).sum())
            raise ModelError(
                f"The features of {bad} of {len(features)} {what}s are NaN or infinite; expected numbers. Look for NaN "
                "in the input, then in the weights: the model's training may have diverged."
            )
        return features

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.constant_(self.logit_scale, self.config.logit_scale_init)
            if self.logit_bias is not None:
                init.constant_(self.logit_bias, self.config.logit_bias_init)


AutoConfig.register(LotlipConfig.model_type, LotlipConfig, exist_ok=True)
AutoModel.register(LotlipConfig, LotlipModel, exist_ok=True)
