"""CLIP weights under OpenAI's names, which open_clip and Long-CLIP share, as transformers' `CLIPModel`."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from lotlip.errors import ModelError
from lotlip.weights import State, check_present, count_heads, count_layers, load_all, split_thirds

ARCH_KEYS = ("text_heads", "image_heads", "activation")
LONG_CLIP_KEPT = 20  # positions that Long-CLIP keeps as CLIP's; the others are in a tensor of their own
_BUFFERS = ("input_resolution", "context_length", "vocab_size", "attn_mask")
_SIZED = (
    "visual.positional_embedding",
    "visual.transformer.resblocks.0.mlp.c_fc.weight",
    "positional_embedding",
    "transformer.resblocks.0.mlp.c_fc.weight",
    "text_projection",
)
_NAMES = (
    ("visual.conv1.", "vision_model.embeddings.patch_embedding."),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.ln_pre.", "vision_model.pre_layrnorm."),
    ("visual.ln_post.", "vision_model.post_layernorm."),
    ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
    ("token_embedding.", "text_model.embeddings.token_embedding."),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final.", "text_model.final_layer_norm."),
    ("transformer.resblocks.", "text_model.encoder.layers."),
)
_BLOCK_NAMES = (
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".attn.out_proj.", ".self_attn.out_proj."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
    (".attn.in_proj_weight", ".attn.in_proj.weight"),
    (".attn.in_proj_bias", ".attn.in_proj.bias"),
)
_FUSED, _PARTS = ".attn.in_proj.", (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj.")
_PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}


def is_clip(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a CLIP, with a ViT or a ResNet."""
    plain = _without_text_prefix(state)
    return "token_embedding.weight" in plain and any(name.startswith("visual.") for name in plain)


def clip_config(state: Mapping[str, Tensor], arch: Mapping[str, Any]) -> CLIPConfig:
    """Sizes of a CLIP, read off its weights.

    The activation leaves no trace in them: OpenAI's and Long-CLIP's is `quick_gelu`, that of most open_clip models
    `gelu`, which `arch` then has to say.

    Raises:
        ModelError: its image tower is no ViT.
    """
    state = _without_text_prefix(state)
    if "visual.conv1.weight" not in state or "visual.class_embedding" not in state:
        raise ModelError("The image tower of this CLIP is not a ViT (no visual.class_embedding): only those are read.")
    check_present(state, _SIZED, "a CLIP with a ViT")
    activation = arch.get("activation", "quick_gelu")
    num_ids, text_width = state["token_embedding.weight"].shape
    image_width, patch = state["visual.conv1.weight"].shape[0], state["visual.conv1.weight"].shape[-1]
    side = math.isqrt(len(state["visual.positional_embedding"]) - 1)
    text = {
        "vocab_size": num_ids,
        "hidden_size": text_width,
        "num_hidden_layers": count_layers(state, r"transformer\.resblocks\.(\d+)\."),
        "num_attention_heads": arch.get("text_heads", count_heads(text_width)),
        "intermediate_size": len(state["transformer.resblocks.0.mlp.c_fc.weight"]),
        "max_position_embeddings": len(state["positional_embedding"]),
        "hidden_act": activation,
        "bos_token_id": num_ids - 2,
        "eos_token_id": num_ids - 1,
        "pad_token_id": num_ids - 1,
    }
    vision = {
        "hidden_size": image_width,
        "num_hidden_layers": count_layers(state, r"visual\.transformer\.resblocks\.(\d+)\."),
        "num_attention_heads": arch.get("image_heads", count_heads(image_width)),
        "intermediate_size": len(state["visual.transformer.resblocks.0.mlp.c_fc.weight"]),
        "image_size": side * patch,
        "patch_size": patch,
        "hidden_act": activation,
    }
    width = state["text_projection"].shape[1]
    for part in (text, vision):
        part["projection_dim"] = width
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=width)


def rename_clip(state: Mapping[str, Tensor]) -> State:
    """The same tensors under `CLIPModel`'s names; Long-CLIP's two tables of positions become one."""
    plain = {name: x for name, x in _without_text_prefix(state).items() if name not in _BUFFERS}
    if "positional_embedding_res" in plain:
        kept, rest = plain["positional_embedding"][:LONG_CLIP_KEPT], plain.pop("positional_embedding_res")
        plain["positional_embedding"] = torch.cat([kept, rest[LONG_CLIP_KEPT:]])
    renamed: State = {}
    for name, tensor in plain.items():
        if name in _PROJECTIONS:
            renamed[_PROJECTIONS[name]] = tensor.T.contiguous()
            continue
        for old, new in _NAMES:
            if name.startswith(old):
                name = new + name.removeprefix(old)
                break
        for old, new in _BLOCK_NAMES:
            name = name.replace(old, new)
        renamed |= split_thirds(name, tensor, _FUSED, _PARTS) if _FUSED in name else {name: tensor}
    return renamed


def from_clip(state: Mapping[str, Tensor], arch: Mapping[str, Any]) -> CLIPModel:
    """A `CLIPModel` from an OpenAI, open_clip or Long-CLIP state dict.

    Raises:
        ModelError: keys are missing or unknown (all are listed), or a tensor has another shape.
    """
    model = CLIPModel(clip_config(state, arch))
    load_all(model, rename_clip(state), "a CLIP with a ViT")
    return model


def _without_text_prefix(state: Mapping[str, Tensor]) -> State:
    """open_clip's newer models call the text tower's parts `text.*`."""
    return {name.removeprefix("text."): tensor for name, tensor in state.items()}
