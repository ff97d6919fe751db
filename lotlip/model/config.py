"""Configuration of a LoTLIP model: two towers, the shared width, the corner tokens."""

import math
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from lotlip.errors import ModelError

LOGIT_SCALE_INIT = math.log(1 / 0.07)
LOGIT_SCALE_MAX = math.log(100)


class LotlipConfig(PreTrainedConfig):  # type: ignore[misc]
    """What `LotlipModel` is built from.

    Args:
        text_config: a BERT configuration (or its dict); `vocab_size` ends with the corner tokens.
        vision_config: configuration of the image tower; no projection follows, so it is `embed_dim` wide.
        embed_dim: width of the shared space.
        num_corner_tokens: m >= 0 corner tokens after `[CLS]`.
        corner_mask: false is the ablation in which everything attends to everything.
        token_limit: longest text in ids, special tokens included.
    """

    model_type = "lotlip"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="vit"),
    }

    text_config: Any = None  # a PreTrainedConfig once built
    vision_config: Any = None
    embed_dim: int = 768
    num_corner_tokens: int = 2
    corner_mask: bool = True
    token_limit: int = 128

    @property
    def first_corner_id(self) -> int:
        """Id of the first corner token; the others follow it and end the vocabulary."""
        return int(self.text_config.vocab_size) - self.num_corner_tokens

    def check(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            ModelError: saying which two values do not fit.
        """
        if self.vision_config.hidden_size != self.embed_dim:
            raise ModelError(
                f"The image tower is {self.vision_config.hidden_size} wide and embed_dim is "
                f"{self.embed_dim}: the image side has no projection, so set embed_dim to the tower's width."
            )
        if self.text_config.max_position_embeddings < self.token_limit:
            raise ModelError(
                f"The text tower has {self.text_config.max_position_embeddings} positions and token_limit is "
                f"{self.token_limit}: lower token_limit, or take a tower with more positions."
            )
        if self.text_config.model_type != "bert":
            raise ModelError(f"The text tower is of type {self.text_config.model_type!r}; expected 'bert'.")
        if self.token_limit < self.num_corner_tokens + 3:
            raise ModelError(
                f"token_limit {self.token_limit} leaves no room for text beside {self.num_corner_tokens} corners."
            )
