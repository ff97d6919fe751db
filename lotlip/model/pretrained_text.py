"""Text towers from checkpoints: BERT, or the text half of a CLIP, with more positions where that is asked for."""

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from lotlip.errors import ModelError
from lotlip.model.image_tower import check_source
from lotlip.model.positions import check_stretch, stretch_positions

# What a masked language model lacks, and a new tower gets afresh.
_POOLER = {"pooler.dense.weight", "pooler.dense.bias"}


@dataclass(frozen=True)
class PretrainedText:
    """A tower's configuration, the weights of its transformer by name, and CLIP's projection to the shared space."""

    config: Any
    weights: dict[str, Tensor]
    projection: Tensor | None = None


def load_text_tower(
    source: str, revision: str | None, kind: str, token_limit: int, keep_positions: int
) -> PretrainedText:
    """Open a checkpoint, and stretch its positions to `token_limit` if it has fewer.

    Args:
        source: a folder or a hub id; the text half of a CLIP checkpoint is taken alone.
        revision: commit of a hub checkpoint.
        kind: `bert` or `causal`.
        token_limit: longest text in ids.
        keep_positions: see `stretch_positions`.

    Raises:
        ModelError: it is missing, of another kind, or lacks weights.
    """
    location = check_source("text tower", source, revision)
    try:
        text_part(transformers.AutoConfig.from_pretrained(**location), source, kind)
        opened = _open_bert(source, location) if kind == "bert" else _open_clip(source, location)
    except (OSError, ValueError) as error:
        raise ModelError(f"The text tower {source} cannot be opened: {error}") from error
    return _with_positions(opened, source, token_limit, keep_positions)


def text_part(config: Any, source: str, kind: str) -> Any:
    """The configuration of a checkpoint's text tower: of a CLIP a part, of a BERT the whole.

    Raises:
        ModelError: it is not of the kind `bert` or `causal` that is wanted.
    """
    wanted = {"bert": "bert", "causal": "clip"}[kind]
    if config.model_type != wanted:
        raise ModelError(f"The text tower {source} is a {config.model_type!r}; text_tower: {kind} takes {wanted}.")
    return config.text_config if kind == "causal" else config


def stretch_config(config: Any, source: str, token_limit: int, keep: int) -> str | None:
    """Give a text tower's configuration `token_limit` positions if it has fewer; returns what to say about it.

    Raises:
        ModelError: they cannot be stretched so.
    """
    num = config.max_position_embeddings
    if num >= token_limit:
        return None
    check_stretch(num, token_limit, keep)
    config.max_position_embeddings = token_limit
    return (
        f"text tower {source} has {num} positions and token_limit is {token_limit}: the first {keep} stay, the others "
        f"are stretched over {token_limit - keep}"
    )


def _open_bert(source: str, location: dict[str, Any]) -> PretrainedText:
    tower, info = transformers.BertModel.from_pretrained(**location, dtype=torch.float32, output_loading_info=True)
    missing = set(info["missing_keys"])
    _refuse_missing(source, missing - _POOLER)
    if missing:
        print(f"text tower {source} has no pooler: a new one is trained", flush=True)
    return PretrainedText(tower.config, {n: x for n, x in tower.state_dict().items() if n not in missing})


def _open_clip(source: str, location: dict[str, Any]) -> PretrainedText:
    # The whole model, whose text projection has the width that its configuration gives both towers.
    clip, info = transformers.CLIPModel.from_pretrained(**location, dtype=torch.float32, output_loading_info=True)
    _refuse_missing(source, set(info["missing_keys"]))
    return PretrainedText(clip.text_model.config, clip.text_model.state_dict(), clip.text_projection.weight.detach())


def _refuse_missing(source: str, missing: set[str]) -> None:
    if missing:
        raise ModelError(f"The text tower {source} lacks weights: {', '.join(sorted(missing))}.")


def _with_positions(tower: PretrainedText, source: str, token_limit: int, keep: int) -> PretrainedText:
    note = stretch_config(tower.config, source, token_limit, keep)
    if note is None:
        return tower
    print(note, flush=True)
    (name,) = (name for name in tower.weights if "position_embedding" in name)
    weights = {**tower.weights, name: stretch_positions(tower.weights[name], token_limit, keep)}
    return PretrainedText(tower.config, weights, tower.projection)
