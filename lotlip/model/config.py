"""Configuration of a LoTLIP model: two towers, the shared width, the corner tokens."""

import math
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from lotlip.errors import ModelError

LOGIT_SCALE_INIT = math.log(1 / 0.07)
LOGIT_SCALE_MAX = math.log(100)
# SigLIP, arXiv:2303.15343.
SIGMOID_SCALE_INIT = math.log(10)


class LotlipConfig(PreTrainedConfig):  # type: ignore[misc]
    """What `LotlipModel` is built from.

    Args:
        text_config: a BERT configuration whose `vocab_size` ends with the corner tokens, or that of CLIP's text tower.
        vision_config: configuration of the image tower.
        embed_dim: width of the shared space.
        image_projection: whether a linear layer without bias follows the image tower; without one it must be
            `embed_dim` wide.
        num_corner_tokens: m >= 0 corner tokens after `[CLS]`.
        corner_mask: false is the ablation in which everything attends to everything.
        token_limit: longest text in ids, special tokens included.
        token_features: compare tokens with patches (late interaction) instead of texts with images.
        logit_scale_init: logarithm of the first logit scale.
        logit_bias_init: first value of a learned bias of the logits; None: there is none.
    """

    model_type = "lotlip"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit"),
    }

    text_config: Any = None  # a PreTrainedConfig once built
    vision_config: Any = None
    embed_dim: int = 768
    image_projection: bool = False
    num_corner_tokens: int = 2
    corner_mask: bool = True
    token_limit: int = 128
    token_features: bool = False
    logit_scale_init: float = LOGIT_SCALE_INIT
    logit_bias_init: float | None = None

    @property
    def first_corner_id(self) -> int:
        """Id of the first corner token; the others follow it and end the vocabulary."""
        return int(self.text_config.vocab_size) - self.num_corner_tokens

    def check(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            ModelError: saying which two values do not fit.
        """
        if not self.image_projection and self.vision_config.hidden_size != self.embed_dim:
            raise ModelError(
                f"The image tower is {self.vision_config.hidden_size} wide and embed_dim is {self.embed_dim}: the "
                "image side has no projection, so set embed_dim to the tower's width, or image_projection to true."
            )
        if self.text_config.max_position_embeddings < self.token_limit:
            raise ModelError(
                f"The text tower has {self.text_config.max_position_embeddings} positions and token_limit is "
                f"{self.token_limit}: lower token_limit, or take a tower with more positions."
            )
        if self.num_corner_tokens and self.text_config.model_type != "bert":
            raise ModelError(
                f"{self.num_corner_tokens} corner tokens need a BERT text tower; it is of type "
                f"{self.text_config.model_type!r}. Set corner_tokens to 0."
            )
        if self.num_corner_tokens and self.token_features:
            raise ModelError(
                "Token features compare every token, so corner tokens have no part: set corner_tokens to 0."
            )
        if self.token_limit < self.num_corner_tokens + 3:
            raise ModelError(
                f"token_limit {self.token_limit} leaves no room for text beside {self.num_corner_tokens} corners."
            )
