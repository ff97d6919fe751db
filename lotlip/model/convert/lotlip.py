"""Released LoTLIP weights (timm ViT + BERT under LoTLIP's names) as a `LotlipModel`."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import BertConfig

from lotlip.errors import ModelError
from lotlip.model.config import LotlipConfig
from lotlip.model.convert.vit import rename_vit, vit_config
from lotlip.model.modeling import LotlipModel
from lotlip.weights import State, check_present, count_heads, count_layers, load_all

# The schema of a released configuration; the last two describe its training.
ARCH_KEYS = (
    "vocab_size_without_corners",
    "hidden_size",
    "text_layers",
    "text_heads",
    "text_intermediate",
    "max_position_embeddings",
    "image_size",
    "patch_size",
    "image_layers",
    "image_heads",
    "num_corner_tokens",
    "context_length",
    "batch",
    "long_texts_per_image",
)
BERT_VOCABULARY = 30522  # bert-base-uncased
RELEASED_LIMIT = 128  # ids a text in the released models, whose BERT has 512 positions
_IMAGE, _TEXT = "visual.trunk.", "text.transformer."
_WORDS = f"{_TEXT}embeddings.word_embeddings.weight"
_POSITIONS = f"{_TEXT}embeddings.position_embeddings.weight"
_DENSE = f"{_TEXT}encoder.layer.0.intermediate.dense.weight"
_POSITION_IDS = f"{_TEXT}embeddings.position_ids"  # a buffer, 0 to n - 1


def is_lotlip(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a released LoTLIP."""
    return _WORDS in state and f"{_IMAGE}patch_embed.proj.weight" in state


def lotlip_config(state: Mapping[str, Tensor], arch: Mapping[str, Any]) -> LotlipConfig:
    """The sizes of the model: those of `arch`, others read off the weights.

    Raises:
        ModelError: the number of corner tokens is neither given nor to be seen, or sizes contradict each other.
    """
    check_present(state, (_WORDS, _POSITIONS, _DENSE), "LoTLIP")
    num_ids, width = state[_WORDS].shape
    corners = arch.get("num_corner_tokens")
    if corners is None:
        corners = num_ids - arch.get("vocab_size_without_corners", BERT_VOCABULARY)
        if not 0 <= corners <= 16:
            raise ModelError(
                f"The text tower knows {num_ids} ids, and without the vocabulary's size nobody can say how many are "
                "corner tokens: give num_corner_tokens with --arch config.json."
            )
    positions = len(state[_POSITIONS])
    text = BertConfig(
        vocab_size=arch["vocab_size_without_corners"] + corners if "vocab_size_without_corners" in arch else num_ids,
        hidden_size=arch.get("hidden_size", width),
        num_hidden_layers=arch.get("text_layers", count_layers(state, r"text\.transformer\.encoder\.layer\.(\d+)\.")),
        num_attention_heads=arch.get("text_heads", count_heads(width)),
        intermediate_size=arch.get("text_intermediate", len(state[_DENSE])),
        max_position_embeddings=arch.get("max_position_embeddings", positions),
    )
    vision = vit_config(_part(state, _IMAGE), arch)
    for name, key in (
        ("image_size", "image_size"),
        ("patch_size", "patch_size"),
        ("num_hidden_layers", "image_layers"),
    ):
        setattr(vision, name, arch.get(key, getattr(vision, name)))
    return LotlipConfig(
        text_config=text,
        vision_config=vision,
        embed_dim=len(state["text.proj.weight"]) if "text.proj.weight" in state else width,
        num_corner_tokens=corners,
        token_limit=arch.get("context_length", min(RELEASED_LIMIT, positions)),
    )


def rename_lotlip(state: Mapping[str, Tensor]) -> State:
    """The same tensors under our names; the fused query-key-value weights of timm are split in three."""
    renamed = {f"image_tower.{name}": tensor for name, tensor in rename_vit(_part(state, _IMAGE)).items()}
    for name, tensor in state.items():
        if name == _POSITION_IDS or name.startswith(_IMAGE):
            continue
        plain = f"text_tower.bert.{name.removeprefix(_TEXT)}" if name.startswith(_TEXT) else name
        renamed[plain.replace("text.proj.", "text_tower.projection.")] = tensor
    return renamed


def from_lotlip(state: Mapping[str, Tensor], arch: Mapping[str, Any]) -> LotlipModel:
    """A model from a released state dict.

    Args:
        state: tensors by name.
        arch: sizes in the schema of the released configuration, as far as given.

    Raises:
        ModelError: keys are missing or unknown (all are listed), or a tensor has another shape.
    """
    model = LotlipModel(lotlip_config(state, arch))
    load_all(model, rename_lotlip(state), "LoTLIP (a timm ViT and a BERT)")
    return model


def _part(state: Mapping[str, Tensor], prefix: str) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
