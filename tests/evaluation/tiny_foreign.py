"""Tiny random models of the kinds that others publish, as folders that `save_pretrained` writes."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from lotlip.model.convert.command import convert
from tests.model.convert.original_clip import OriginalClip

VOCABULARY = Path(__file__).parents[2] / "lotlip/sample/weights/tokenizer"
_SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_SIDE = {"height": 32, "width": 32}


def tokenizer(kind: str) -> Any:
    """The sample's words, or for `siglip2` letters; its limit is 1e30, as of many published ones."""
    if kind == "siglip2":
        special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
        letters = [*special, "▁", *map(chr, range(97, 123)), ",", "."]
        return transformers.Siglip2Tokenizer({letter: i for i, letter in enumerate(letters)}, padding_side="right")
    words = PreTrainedTokenizerFast.from_pretrained(VOCABULARY, model_max_length=int(1e30))
    ends = [("[CLS]", words.cls_token_id), ("[SEP]", words.sep_token_id)]
    words.backend_tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return words


def save_foreign(kind: str, folder: Path) -> Path:
    """`clip` of 16 tokens, `siglip` and `siglip2` of 12, `align` of 20."""
    torch.manual_seed(0)
    words = tokenizer(kind)
    text = {**_SMALL, "vocab_size": len(words), "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    vision = {**_SMALL, "image_size": 32, "patch_size": 16}
    images: Any
    if kind == "clip":
        text["max_position_embeddings"] = 16
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=_SIDE)
    elif kind == "siglip":
        text["max_position_embeddings"] = 12
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        images = SiglipImageProcessorPil(size=_SIDE)
    elif kind == "siglip2":
        text["max_position_embeddings"] = 12
        del vision["image_size"]
        config = transformers.Siglip2Config(text_config=text, vision_config={**vision, "num_patches": 16})
        images = Siglip2ImageProcessorPil(max_num_patches=16, patch_size=16)
    else:
        text["max_position_embeddings"] = 20
        stages = {"kernel_sizes": [3, 3], "in_channels": [32, 8], "out_channels": [8, 8], "strides": [1, 2]}
        widths = {"num_block_repeats": [1, 1], "expand_ratios": [1, 2], "hidden_dim": 16}
        sizes = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "image_size": 32}
        config = transformers.AlignConfig(
            text_config=text, vision_config={**stages, **widths, **sizes}, projection_dim=8
        )
        images = EfficientNetImageProcessorPil(size=_SIDE)
    model = transformers.AutoModel.from_config(config)
    with torch.no_grad():  # the usual start is so small that all features would be nearly equal
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1 if "embedding" not in name else 0.5)
    model.save_pretrained(folder)
    images.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_long_clip(folder: Path) -> Path:
    """A Long-CLIP of 248 tokens, as `lotlip convert` makes it of released weights; its words are single letters."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    letters = [chr(97 + i) for i in range(24)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    torch.save(OriginalClip(positions=248, long=True).state_dict(), folder / "longclip.pt")
    (folder / "arch.json").write_text(json.dumps({"text_heads": 2, "image_heads": 2}))
    convert(folder / "longclip.pt", folder / "converted", folder / "arch.json", str(folder / "tokenizer"))
    return folder / "converted"
