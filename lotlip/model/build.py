"""A fresh `LotlipModel` from the settings in params.yaml: pretrained towers, new corners and projections."""

from dataclasses import dataclass

import torch
import transformers
from torch import Tensor, nn

from lotlip.model.image_tower import ImageSettings, check_source, freeze_unread, load_image_tower
from lotlip.model.modeling import LotlipModel
from lotlip.model.outline import join_config, vocabulary_of
from lotlip.model.pretrained_text import PretrainedText, load_text_tower
from lotlip.params import Method, Train
from lotlip.text.tokenizer import LotlipTokenizer


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
    image = load_image_tower(settings.image_tower, settings.image_tower_revision, fresh=method.image_tower == "fresh")
    text = _pretrained_text(settings, method)
    text_config = None if text is None else text.config
    config = join_config(settings, method, vocabulary_of(tokenizer), text_config, image.tower.config)
    if _goes_on_from_clip(settings, method):
        config.logit_scale_init = _logit_scale_of_clip(settings)
    model = LotlipModel(config)
    model.image_tower.load_state_dict(image.tower.state_dict())
    _copy_projection(model.image_projection, image.projection)
    if text is not None:
        _load_text(model, text)
    freeze_unread(model.image_tower, patches=config.token_features)
    if method.image_tower == "locked":
        model.image_tower.requires_grad_(False)
    return Parts(model, tokenizer, image.settings)


def _pretrained_text(settings: Train, method: Method) -> PretrainedText | None:
    if settings.text_tower is None:
        return None
    return load_text_tower(
        settings.text_tower,
        settings.text_tower_revision,
        method.text_tower,
        settings.token_limit,
        settings.keep_positions,
    )


def _goes_on_from_clip(settings: Train, method: Method) -> bool:
    """Whether both towers are those of one CLIP, which goes on training."""
    towers_of_one = method.text_tower == "causal" and settings.text_tower == settings.image_tower
    return towers_of_one and method.image_tower != "fresh" and method.objective != "sigmoid"


def _logit_scale_of_clip(settings: Train) -> float:
    location = check_source("CLIP", settings.image_tower, settings.image_tower_revision)
    scale: float = transformers.CLIPModel.from_pretrained(**location).logit_scale.item()
    return scale


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
