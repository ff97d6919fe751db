"""A fresh `LotlipModel` from the settings in params.yaml: pretrained towers, new corners and projections."""

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import BertConfig, CLIPTextConfig

from lotlip.errors import ModelError, ParamsError
from lotlip.model.config import LOGIT_SCALE_INIT, SIGMOID_BIAS_INIT, SIGMOID_SCALE_INIT, LotlipConfig
from lotlip.model.image_tower import ImageSettings, check_source, load_image_tower
from lotlip.model.modeling import LotlipModel
from lotlip.model.pretrained_text import PretrainedText, load_text_tower
from lotlip.params import Method, Train
from lotlip.text.tokenizer import LotlipTokenizer

INITIALIZER_RANGE = 0.02  # deviation of new weights, corner embeddings among them (METHOD.md)


@dataclass(frozen=True)
class Parts:
    """A model, and what turns texts and images into its inputs."""

    model: LotlipModel
    tokenizer: LotlipTokenizer
    image_settings: ImageSettings


def build_model(settings: Train, method: Method) -> Parts:
    """Open the towers and the tokenizer and join them; new weights come from torch's global generator.

    Raises:
        ModelError: a checkpoint is missing, of another kind, or does not fit its settings.
        ParamsError: settings contradict each other.
    """
    tokenizer = LotlipTokenizer.load(
        settings.tokenizer,
        revision=settings.tokenizer_revision,
        num_corner_tokens=method.corner_tokens,
        token_limit=settings.token_limit,
    )
    image = load_image_tower(settings.image_tower, settings.image_tower_revision)
    text = _pretrained_text(settings, method, tokenizer)
    text_config = _fresh_config(settings, method, tokenizer) if text is None else text.config
    for part in (text_config, image.tower.config):
        part._name_or_path = ""  # where a tower was loaded from does not belong into the trained model
    scale, bias = _logit_start(settings, method)
    config = LotlipConfig(
        text_config=text_config,
        vision_config=image.tower.config,
        embed_dim=settings.embed_dim,
        image_projection=method.image_projection,
        num_corner_tokens=method.corner_tokens,
        corner_mask=method.corner_mask,
        token_limit=settings.token_limit,
        token_features=method.objective == "late_interaction",
        logit_scale_init=scale,
        logit_bias_init=bias,
    )
    model = LotlipModel(config)
    model.image_tower.load_state_dict(image.tower.state_dict())
    _copy_projection(model.image_projection, image.projection)
    if text is not None:
        _load_text(model, text)
    if method.image_tower == "locked":
        model.image_tower.requires_grad_(False)
    return Parts(model, tokenizer, image.settings)


def _pretrained_text(settings: Train, method: Method, tokenizer: LotlipTokenizer) -> PretrainedText | None:
    if settings.text_tower is None:
        return None
    text = load_text_tower(
        settings.text_tower,
        settings.text_tower_revision,
        method.text_tower,
        settings.token_limit,
        settings.keep_positions,
    )
    plain_size = tokenizer.vocab_size - tokenizer.num_corner_tokens
    if text.config.vocab_size != plain_size:
        raise ModelError(
            f"The text tower {settings.text_tower} knows {text.config.vocab_size} ids and the tokenizer "
            f"{settings.tokenizer} has {plain_size}: they do not belong together."
        )
    text.config.vocab_size = tokenizer.vocab_size
    if method.text_tower == "bert":
        text.config.hidden_dropout_prob, text.config.attention_probs_dropout_prob = settings.text_dropout, 0.0
    return text


def _fresh_config(settings: Train, method: Method, tokenizer: LotlipTokenizer) -> BertConfig | CLIPTextConfig:
    if settings.text_width % settings.text_heads:
        raise ParamsError(
            f"train.text_width {settings.text_width} is not a multiple of text_heads {settings.text_heads}."
        )
    shared: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": settings.text_width,
        "num_hidden_layers": settings.text_layers,
        "num_attention_heads": settings.text_heads,
        "intermediate_size": 4 * settings.text_width,
        "max_position_embeddings": settings.token_limit,
        "pad_token_id": tokenizer.pad_id,
    }
    if method.text_tower == "causal":
        return CLIPTextConfig(
            **shared,
            projection_dim=settings.embed_dim,
            bos_token_id=tokenizer.start_id,
            eos_token_id=tokenizer.end_id,
        )
    return BertConfig(
        **shared,
        hidden_dropout_prob=settings.text_dropout,
        attention_probs_dropout_prob=0.0,
        initializer_range=INITIALIZER_RANGE,
    )


def _logit_start(settings: Train, method: Method) -> tuple[float, float | None]:
    """First logarithm of the logit scale, and first bias."""
    if method.objective == "sigmoid":
        return SIGMOID_SCALE_INIT, SIGMOID_BIAS_INIT
    if method.text_tower == "causal" and settings.text_tower == settings.image_tower:  # a whole CLIP goes on training
        location = check_source("CLIP", settings.image_tower, settings.image_tower_revision)
        return transformers.CLIPModel.from_pretrained(**location).logit_scale.item(), None
    return LOGIT_SCALE_INIT, None


@torch.no_grad()
def _load_text(model: LotlipModel, text: PretrainedText) -> None:
    """Copy a pretrained transformer; the rows of the corner tokens, which it lacks, keep their new values."""
    tower = model.text_tower
    words, fresh = f"{tower.words}.weight", tower.word_embeddings.weight
    known = text.weights[words]
    weights = {**text.weights, words: torch.cat([known, fresh[len(known) :]])}
    tower.transformer.load_state_dict({**tower.transformer.state_dict(), **weights})
    _copy_projection(tower.projection, text.projection)


@torch.no_grad()
def _copy_projection(layer: nn.Module, weight: Tensor | None) -> None:
    """Take over a CLIP checkpoint's projection where it leads to the same shared space."""
    if isinstance(layer, nn.Linear) and weight is not None and weight.shape == layer.weight.shape:
        layer.weight.copy_(weight)
