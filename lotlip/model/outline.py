"""What a model will be, before any weight is loaded: its configuration, and its parts on the meta device."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from transformers import BertConfig, CLIPConfig, CLIPTextConfig, SiglipConfig, ViTConfig

from lotlip.errors import ModelError, ParamsError
from lotlip.model.config import LOGIT_SCALE_INIT, SIGMOID_SCALE_INIT, LotlipConfig
from lotlip.model.image_tower import check_source, freeze_unread, vision_part
from lotlip.model.modeling import LotlipModel
from lotlip.model.pretrained_text import stretch_config, text_part
from lotlip.params import Method, Train
from lotlip.text.tokenizer import LotlipTokenizer

INITIALIZER_RANGE = 0.02  # deviation of new weights, corner embeddings among them (METHOD.md)


@dataclass(frozen=True)
class Vocabulary:
    """Ids of a tokenizer: how many without corners, and which pad, begin and end a text."""

    size: int
    pad: int
    start: int
    end: int


# Sizes of the checkpoints that conf/ names, for machines that have none of their files.
_BERT, _CLIP = Vocabulary(30522, 0, 101, 102), Vocabulary(49408, 49407, 49406, 49407)
_VOCABULARIES = {
    "google-bert/bert-base-uncased": _BERT,
    "openai/clip-vit-base-patch16": _CLIP,
    "openai/clip-vit-base-patch32": _CLIP,
}
_CONFIGS: dict[str, Callable[[], Any]] = {
    "google/vit-base-patch16-224-in21k": ViTConfig,
    "google/vit-base-patch32-224-in21k": partial(ViTConfig, patch_size=32),
    "google-bert/bert-base-uncased": BertConfig,
    "openai/clip-vit-base-patch16": partial(CLIPConfig, vision_config={"patch_size": 16}),
    "openai/clip-vit-base-patch32": CLIPConfig,
    "google/siglip-base-patch16-224": SiglipConfig,
}


@dataclass(frozen=True)
class Outline:
    """A model on the meta device, its image tower locked where it will be, and what is worth saying about it."""

    model: LotlipModel
    notes: tuple[str, ...]

    @property
    def config(self) -> LotlipConfig:
        found: LotlipConfig = self.model.config
        return found

    @property
    def num_trained(self) -> int:
        """Parameters that are trained."""
        return sum(int(p.numel()) for p in self.model.parameters() if p.requires_grad)

    @property
    def num_locked(self) -> int:
        """Parameters that stay as they are."""
        return sum(int(p.numel()) for p in self.model.parameters() if not p.requires_grad)


def outline(settings: Train, method: Method) -> Outline:
    """The model that `build_model` would build; no weights are read, and nothing is fetched for known hub ids.

    Raises:
        ModelError: a checkpoint's configuration is missing, of another kind, or does not fit its settings.
        ParamsError: settings contradict each other.
    """
    notes: list[str] = []
    vision = vision_part(_config("image tower", settings.image_tower, settings.image_tower_revision, notes))
    text = None
    if settings.text_tower is not None:
        found = _config("text tower", settings.text_tower, settings.text_tower_revision, notes)
        text = text_part(found, settings.text_tower, method.text_tower)
        note = stretch_config(text, settings.text_tower, settings.token_limit, settings.keep_positions)
        notes += [] if note is None else [note]
    config = join_config(settings, method, _vocabulary(settings), text, vision)
    with torch.device("meta"):
        model = LotlipModel(config)
    freeze_unread(model.image_tower, patches=config.token_features)
    if method.image_tower == "locked":
        model.image_tower.requires_grad_(False)
    return Outline(model, tuple(dict.fromkeys(notes)))


def join_config(
    settings: Train, method: Method, vocabulary: Vocabulary, text_config: Any, vision_config: Any
) -> LotlipConfig:
    """A model's configuration from those of its towers; a text tower of None is made from scratch.

    Raises:
        ModelError: text tower and tokenizer do not belong together.
        ParamsError: the width of a new text tower does not fit its heads.
    """
    if text_config is None:
        text_config = _fresh_config(settings, method, vocabulary)
    elif text_config.vocab_size != vocabulary.size:
        raise ModelError(
            f"The text tower {settings.text_tower} knows {text_config.vocab_size} ids and the tokenizer "
            f"{settings.tokenizer} has {vocabulary.size}: they do not belong together."
        )
    text_config.vocab_size = vocabulary.size + method.corner_tokens
    if method.text_tower == "bert":
        text_config.hidden_dropout_prob, text_config.attention_probs_dropout_prob = settings.text_dropout, 0.0
    for part in (text_config, vision_config):
        part._name_or_path = ""  # where a tower was loaded from does not belong into the trained model
    is_sigmoid = method.objective == "sigmoid"
    return LotlipConfig(
        text_config=text_config,
        vision_config=vision_config,
        embed_dim=settings.embed_dim,
        image_projection=method.image_projection,
        num_corner_tokens=method.corner_tokens,
        corner_mask=method.corner_mask,
        token_limit=settings.token_limit,
        token_features=method.objective == "late_interaction",
        logit_scale_init=SIGMOID_SCALE_INIT if is_sigmoid else LOGIT_SCALE_INIT,
        logit_bias_init=method.sigmoid_bias if is_sigmoid else None,
    )


def _fresh_config(settings: Train, method: Method, vocabulary: Vocabulary) -> BertConfig | CLIPTextConfig:
    if settings.text_width % settings.text_heads:
        raise ParamsError(
            f"train.text_width {settings.text_width} is not a multiple of text_heads {settings.text_heads}."
        )
    shared: dict[str, Any] = {
        "hidden_size": settings.text_width,
        "num_hidden_layers": settings.text_layers,
        "num_attention_heads": settings.text_heads,
        "intermediate_size": 4 * settings.text_width,
        "max_position_embeddings": settings.token_limit,
        "pad_token_id": vocabulary.pad,
    }
    if method.text_tower == "causal":
        return CLIPTextConfig(
            **shared,
            projection_dim=settings.embed_dim,
            bos_token_id=vocabulary.start,
            eos_token_id=vocabulary.end,
        )
    return BertConfig(**shared, initializer_range=INITIALIZER_RANGE)


def _config(what: str, source: str, revision: str | None, notes: list[str]) -> Any:
    """The configuration of a folder or hub id: what is here first, then what is known, then the hub."""
    location = check_source(what, source, revision)
    read = transformers.AutoConfig.from_pretrained
    try:
        try:
            return read(**{**location, "local_files_only": True})
        except (OSError, ValueError):
            if source in _CONFIGS:
                notes.append(f"sizes of {source} from a built-in table: its files are not here")
                return _CONFIGS[source]()
            return read(**location)
    except (OSError, ValueError) as error:
        raise ModelError(f"The {what} {source} cannot be opened: {error}") from error


def _vocabulary(settings: Train) -> Vocabulary:
    if settings.tokenizer in _VOCABULARIES:
        return _VOCABULARIES[settings.tokenizer]
    tokenizer = LotlipTokenizer.load(
        settings.tokenizer,
        revision=settings.tokenizer_revision,
        num_corner_tokens=0,
        token_limit=settings.token_limit,
    )
    return vocabulary_of(tokenizer)


def vocabulary_of(tokenizer: LotlipTokenizer) -> Vocabulary:
    """Its ids, corners left out."""
    size = tokenizer.vocab_size - tokenizer.num_corner_tokens
    return Vocabulary(size, tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id)
