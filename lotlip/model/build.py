"""A fresh `LotlipModel` from the settings in params.yaml: pretrained towers, new corners and projection."""

from dataclasses import dataclass

import torch
import transformers
from transformers import BertConfig, BertModel

from lotlip.errors import ModelError, ParamsError
from lotlip.model.config import LotlipConfig
from lotlip.model.image_tower import ImageSettings, check_source, load_image_tower
from lotlip.model.modeling import LotlipModel
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
    image_tower, image_settings = load_image_tower(settings.image_tower, settings.image_tower_revision)
    text_config, pretrained = _text_tower(settings, tokenizer)
    for part in (text_config, image_tower.config):
        part._name_or_path = ""  # where a tower was loaded from does not belong into the trained model
    config = LotlipConfig(
        text_config=text_config,
        vision_config=image_tower.config,
        embed_dim=settings.embed_dim,
        num_corner_tokens=method.corner_tokens,
        corner_mask=method.corner_mask,
        token_limit=settings.token_limit,
    )
    model = LotlipModel(config)
    model.image_tower.load_state_dict(image_tower.state_dict())
    if pretrained is not None:
        _load_text(model, pretrained)
    if method.image_tower == "locked":
        model.image_tower.requires_grad_(False)
    return Parts(model, tokenizer, image_settings)


def _text_tower(settings: Train, tokenizer: LotlipTokenizer) -> tuple[BertConfig, BertModel | None]:
    if settings.text_tower is None:
        return _fresh_config(settings, tokenizer), None
    location = check_source("text tower", settings.text_tower, settings.text_tower_revision)
    try:
        config = transformers.AutoConfig.from_pretrained(**location)
        if config.model_type != "bert":
            raise ModelError(f"The text tower {settings.text_tower} is a {config.model_type!r}; expected 'bert'.")
        bert, info = BertModel.from_pretrained(**location, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"The text tower {settings.text_tower} cannot be opened: {error}") from error
    if info["missing_keys"]:
        raise ModelError(
            f"The text tower {settings.text_tower} lacks weights: {', '.join(sorted(info['missing_keys']))}."
        )
    plain_size = tokenizer.vocab_size - tokenizer.num_corner_tokens
    if bert.config.vocab_size != plain_size:
        raise ModelError(
            f"The text tower {settings.text_tower} knows {bert.config.vocab_size} ids and the tokenizer "
            f"{settings.tokenizer} has {plain_size}: they do not belong together."
        )
    config.vocab_size = tokenizer.vocab_size
    config.hidden_dropout_prob, config.attention_probs_dropout_prob = settings.text_dropout, 0.0
    return config, bert


def _fresh_config(settings: Train, tokenizer: LotlipTokenizer) -> BertConfig:
    if settings.text_width % settings.text_heads:
        raise ParamsError(
            f"train.text_width {settings.text_width} is not a multiple of text_heads {settings.text_heads}."
        )
    return BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=settings.text_width,
        num_hidden_layers=settings.text_layers,
        num_attention_heads=settings.text_heads,
        intermediate_size=4 * settings.text_width,
        max_position_embeddings=settings.token_limit,
        hidden_dropout_prob=settings.text_dropout,
        attention_probs_dropout_prob=0.0,
        initializer_range=INITIALIZER_RANGE,
        pad_token_id=tokenizer.pad_id,
    )


@torch.no_grad()
def _load_text(model: LotlipModel, bert: BertModel) -> None:
    """Copy a pretrained BERT; the rows of the corner tokens, which it lacks, keep their new values."""
    state = bert.state_dict()
    words = "embeddings.word_embeddings.weight"
    fresh = model.text_tower.bert.embeddings.word_embeddings.weight
    state[words] = torch.cat([state[words], fresh[len(state[words]) :]])
    model.text_tower.bert.load_state_dict(state)
