"""A tiny model folder with random weights, saved as a trained one is."""

from pathlib import Path

import torch
from tokenizers.implementations import BertWordPieceTokenizer
from transformers import BertConfig, ViTConfig

from lotlip import LotlipConfig, LotlipModel, LotlipProcessor
from lotlip.model.image_tower import ImageSettings
from lotlip.sample import scenes
from lotlip.text.tokenizer import LotlipTokenizer


def save_tiny_model(folder: Path, token_limit: int = 24) -> Path:
    """Write a model of a few thousand weights; its vocabulary comes from some of the sample's texts."""
    backend = BertWordPieceTokenizer(lowercase=True)
    all_scenes = [scenes.make_scene(9, i) for i in range(30)]
    texts = [text for scene in all_scenes for text in (*scenes.short_captions(scene), scenes.long_caption(scene))]
    backend.train_from_iterator(texts, vocab_size=400, show_progress=False)
    tokenizer = LotlipTokenizer(backend._tokenizer, num_corner_tokens=2, token_limit=token_limit)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = LotlipConfig(
        text_config=BertConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=token_limit, **shape),
        vision_config=ViTConfig(image_size=32, patch_size=16, **shape),
        embed_dim=16,
        num_corner_tokens=2,
        token_limit=token_limit,
    )
    LotlipModel(config).save_pretrained(folder)
    LotlipProcessor(tokenizer, ImageSettings(32)).save_pretrained(folder)
    return folder
