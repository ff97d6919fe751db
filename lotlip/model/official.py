"""Released LoTLIP weights (timm ViT + BERT names) as a `LotlipModel`."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import BertConfig, ViTConfig

from lotlip.errors import ModelError
from lotlip.model.config import LotlipConfig
from lotlip.model.modeling import LotlipModel

_PREFIXES = (
    ("text.transformer.", "text_tower.bert."),
    ("text.proj.", "text_tower.projection."),
    ("visual.trunk.patch_embed.proj.", "image_tower.embeddings.patch_embeddings.projection."),
    ("visual.trunk.cls_token", "image_tower.embeddings.cls_token"),
    ("visual.trunk.pos_embed", "image_tower.embeddings.position_embeddings"),
    ("visual.trunk.norm.", "image_tower.layernorm."),
    ("visual.trunk.blocks.", "image_tower.layers."),
)
_BLOCK_PARTS = (
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".attn.proj.", ".attention.o_proj."),
)
_IGNORED = "text.transformer.embeddings.position_ids"  # a buffer, 0 to n - 1


def from_official(state: Mapping[str, Tensor], arch: Mapping[str, Any]) -> LotlipModel:
    """Build a model from a released state dict.

    Args:
        state: tensors by name, the names possibly prefixed `module.`.
        arch: sizes in the schema of the released configuration (`hidden_size`, `text_layers`, ...).

    Raises:
        ModelError: keys are missing or unknown (all are listed), or a tensor has another shape.
    """
    model = LotlipModel(_config(arch))
    renamed = rename_official(state)
    try:
        missing, unknown = model.load_state_dict(renamed, strict=False)
    except RuntimeError as error:
        raise ModelError(f"The released weights do not fit their architecture: {error}") from None
    if missing or unknown:
        raise ModelError(
            f"The released weights lack {', '.join(missing) or 'nothing'} and have unknown "
            f"{', '.join(unknown) or 'nothing'}: expected a timm ViT and a BERT under LoTLIP's names."
        )
    model.eval()
    return model


def rename_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under our names; the fused query-key-value weights of timm are split in three."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        plain = name.removeprefix("module.")
        if plain == _IGNORED:
            continue
        for old, new in _PREFIXES:
            if plain.startswith(old):
                plain = new + plain.removeprefix(old)
                break
        for old, new in _BLOCK_PARTS:
            plain = plain.replace(old, new)
        if ".attn.qkv." in plain:
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed[plain.replace(".attn.qkv.", f".attention.{part}_proj.")] = third.contiguous()
        else:
            renamed[plain] = tensor
    return renamed


def _config(arch: Mapping[str, Any]) -> LotlipConfig:
    width, corners = arch["hidden_size"], arch["num_corner_tokens"]
    text = BertConfig(
        vocab_size=arch["vocab_size_without_corners"] + corners,
        hidden_size=width,
        num_hidden_layers=arch["text_layers"],
        num_attention_heads=arch["text_heads"],
        intermediate_size=arch["text_intermediate"],
        max_position_embeddings=arch["max_position_embeddings"],
    )
    vision = ViTConfig(
        hidden_size=width,
        num_hidden_layers=arch["image_layers"],
        num_attention_heads=arch["image_heads"],
        intermediate_size=4 * width,
        image_size=arch["image_size"],
        patch_size=arch["patch_size"],
        layer_norm_eps=1e-6,
    )
    return LotlipConfig(
        text_config=text,
        vision_config=vision,
        embed_dim=width,
        num_corner_tokens=corners,
        token_limit=arch["context_length"],
    )
