"""The sample's tiny captioners before training, of the classes that the real ones have, over its pretrained tower."""

from typing import Any

import torch

from lotlip.sample import scenes

HALF = [0.5] * 3
NUM_QUERIES = 16  # of the Q-Former
QFORMER_LAYERS = 2


def build_llava(tower: Any, tokenizer: Any, width: int, layers: int) -> tuple[Any, Any]:
    """A LLaVA with a Llama of `layers` x `width` on the tower's last but one layer, as LLaVA-1.5 reads it.

    Returns:
        Model and processor.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    patch = tower.config.patch_size
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=_llama(tokenizer, width, layers),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(scenes.SIZE // patch) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(config)
    missing, unexpected = model.model.vision_tower.load_state_dict(tower.state_dict(), strict=False)
    assert set(missing) == {"pooler.dense.weight", "pooler.dense.bias"}, missing  # LLaVA reads no pooler
    assert not unexpected, unexpected
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": scenes.SIZE},
            crop_size={"height": scenes.SIZE, "width": scenes.SIZE},
            image_mean=HALF,
            image_std=HALF,
        ),
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    )
    model.generation_config = _generation(tokenizer)
    return model, processor


def build_instructblip(tower: Any, tokenizer: Any, qformer_tokenizer: Any, width: int, layers: int) -> tuple[Any, Any]:
    """An InstructBLIP whose Q-Former reads the tower's last but one layer, with a Llama of `layers` x `width`.

    Returns:
        Model and processor.
    """
    from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration, InstructBlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    seen = tower.config
    shared = {"hidden_size": seen.hidden_size, "num_attention_heads": seen.num_attention_heads}
    config = InstructBlipConfig(
        vision_config={
            **shared,
            "intermediate_size": seen.intermediate_size,
            "num_hidden_layers": seen.num_hidden_layers - 1,
            "image_size": seen.image_size,
            "patch_size": seen.patch_size,
            "hidden_act": seen.hidden_act,
            "layer_norm_eps": seen.layer_norm_eps,
            "qkv_bias": True,
        },
        qformer_config={
            **shared,
            "intermediate_size": 2 * seen.hidden_size,
            "num_hidden_layers": QFORMER_LAYERS,
            "vocab_size": len(qformer_tokenizer),
            "encoder_hidden_size": seen.hidden_size,
            "max_position_embeddings": 64,
            "cross_attention_frequency": 1,
            "initializer_range": 0.1,  # at the usual 0.02 so narrow a Q-Former attends to everything alike
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        text_config=_llama(tokenizer, width, layers).to_dict(),
        num_query_tokens=NUM_QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = InstructBlipForConditionalGeneration(config)
    model.vision_model.load_state_dict(_as_blip(tower))
    with torch.no_grad():
        model.query_tokens.normal_(std=0.5)  # from zeros all queries would stay alike
    side = {"height": scenes.SIZE, "width": scenes.SIZE}
    processor = InstructBlipProcessor(
        BlipImageProcessorPil(size=side, image_mean=HALF, image_std=HALF), tokenizer, qformer_tokenizer, NUM_QUERIES
    )
    model.generation_config = _generation(tokenizer)
    return model, processor


def _as_blip(tower: Any) -> dict[str, torch.Tensor]:
    """The tower's weights but its last layer's, under the names of InstructBLIP's vision model."""
    state = tower.state_dict()
    renamed = {
        "embeddings.class_embedding": state["embeddings.cls_token"],
        "embeddings.position_embedding": state["embeddings.position_embeddings"],
        "embeddings.patch_embedding.weight": state["embeddings.patch_embeddings.projection.weight"],
        "embeddings.patch_embedding.bias": state["embeddings.patch_embeddings.projection.bias"],
        "post_layernorm.weight": state["layernorm.weight"],
        "post_layernorm.bias": state["layernorm.bias"],
    }
    for i in range(tower.config.num_hidden_layers - 1):
        ours, theirs = f"layers.{i}.", f"encoder.layers.{i}."
        for kind in ("weight", "bias"):
            parts = [state[f"{ours}attention.{part}_proj.{kind}"] for part in "qkv"]
            renamed[f"{theirs}self_attn.qkv.{kind}"] = torch.cat(parts)
            renamed[f"{theirs}self_attn.projection.{kind}"] = state[f"{ours}attention.o_proj.{kind}"]
            renamed[f"{theirs}layer_norm1.{kind}"] = state[f"{ours}layernorm_before.{kind}"]
            renamed[f"{theirs}layer_norm2.{kind}"] = state[f"{ours}layernorm_after.{kind}"]
            for part in ("fc1", "fc2"):
                renamed[f"{theirs}mlp.{part}.{kind}"] = state[f"{ours}mlp.{part}.{kind}"]
    return renamed


def _llama(tokenizer: Any, width: int, layers: int) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        intermediate_size=2 * width,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        **_special(tokenizer),
    )


def _generation(tokenizer: Any) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(**_special(tokenizer))


def _special(tokenizer: Any) -> dict[str, int]:
    return {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
