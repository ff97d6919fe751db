"""timm's Vision Transformers as transformers' `ViTModel`."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import ViTConfig, ViTModel

from lotlip.errors import ModelError
from lotlip.weights import State, check_present, count_heads, count_layers, load_all, split_thirds

ARCH_KEYS = ("image_heads",)
_NAMES = (
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("norm.", "layernorm."),
    ("blocks.", "layers."),
)
_BLOCK_NAMES = (
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".attn.proj.", ".attention.o_proj."),
)
_FUSED, _PARTS = ".attn.qkv.", (".attention.q_proj.", ".attention.k_proj.", ".attention.v_proj.")


def is_vit(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a bare timm ViT."""
    return "patch_embed.proj.weight" in state and "blocks.0.attn.qkv.weight" in state


def vit_config(state: Mapping[str, Tensor], arch: Mapping[str, Any]) -> ViTConfig:
    """Sizes of a timm ViT, read off its weights; its norms have an epsilon of 1e-6.

    Raises:
        ModelError: the position embeddings are not those of a class token and a square of patches.
    """
    check_present(state, ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight"), "a timm ViT")
    weight = state["patch_embed.proj.weight"]
    width, patch = weight.shape[0], weight.shape[-1]
    side = math.isqrt(state["pos_embed"].shape[1] - 1)
    if side * side + 1 != state["pos_embed"].shape[1]:
        raise ModelError(
            f"The ViT has {state['pos_embed'].shape[1]} position embeddings; expected one for the class token and "
            "those of a square of patches."
        )
    return ViTConfig(
        hidden_size=width,
        num_hidden_layers=count_layers(state, r"blocks\.(\d+)\."),
        num_attention_heads=arch.get("image_heads", count_heads(width)),
        intermediate_size=state["blocks.0.mlp.fc1.weight"].shape[0],
        image_size=side * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )


def rename_vit(state: Mapping[str, Tensor]) -> State:
    """The same tensors under `ViTModel`'s names, without those of a classifier (`head.`)."""
    renamed: State = {}
    for name, tensor in state.items():
        if name.startswith("head."):
            continue
        plain = name
        for old, new in _NAMES:
            if plain.startswith(old):
                plain = new + plain.removeprefix(old)
                break
        for old, new in _BLOCK_NAMES:
            plain = plain.replace(old, new)
        renamed |= split_thirds(plain, tensor, _FUSED, _PARTS) if _FUSED in plain else {plain: tensor}
    return renamed


def from_vit(state: Mapping[str, Tensor], arch: Mapping[str, Any]) -> ViTModel:
    """A `ViTModel` without pooler from the weights of a timm ViT.

    Raises:
        ModelError: keys are missing or unknown (all are listed), or a tensor has another shape.
    """
    model = ViTModel(vit_config(state, arch), add_pooling_layer=False)
    load_all(model, rename_vit(state), "a timm ViT")
    return model
