"""A tiny random checkpoint of the LLaVA class, as AutoProcessor and AutoModelForImageTextToText load it.

The parts, and what must agree with what:
- vision tower: `ViTModel` (class token, square patches). `vision_feature_layer=-1` is its last layer's output
  before the final norm; `-2` is one layer earlier, as LLaVA-1.5 uses.
- `vision_feature_select_strategy="default"` drops the class token: the same in the model's config and in the
  processor.
- the processor writes `num_patches + num_additional_image_tokens - (1 if "default")` image tokens an image;
  the tower gives `num_patches + 1` features, minus the class token: so `num_additional_image_tokens=1`.
- `<image>` is one special token of the tokenizer; its id is the model's `image_token_index`.
- pad, bos and eos ids stand in the text config and in the generation config; the vocabulary size of the text
  config counts the added tokens too.
"""

from pathlib import Path
from typing import Any

IMAGE_SIDE = 32
PATCH = 16
TEMPLATE = "USER: <image>\n{prompt} ASSISTANT:"
TEXT = (
    "describe the image in detail user assistant : . , a an on of and red green blue yellow circle square "
    "triangle star left right above below large small background is there with next to white black"
)
WORDS = TEXT.split()


def build_tiny_llava(folder: Path, seed: int = 0, chat_template: str | None = None) -> Path:
    """Save a random LLaVA (a few thousand weights) with its processor into `folder` and return the folder."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIDE},
        crop_size={"height": IMAGE_SIDE, "width": IMAGE_SIDE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    processor = LlavaProcessor(image_processor, build_tokenizer(), chat_template=chat_template, **_FEATURES)
    config = LlavaConfig(image_seq_length=(IMAGE_SIDE // PATCH) ** 2, **_shared(processor.tokenizer))
    return _save(LlavaForConditionalGeneration, config, processor, folder, seed)


def build_tiny_llava_next(folder: Path, seed: int = 0) -> Path:
    """A random LLaVA-NeXT, whose prompts are longer for images that fill more tiles."""
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextProcessor
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    tiles = [[IMAGE_SIDE, 2 * IMAGE_SIDE], [2 * IMAGE_SIDE, IMAGE_SIDE], [2 * IMAGE_SIDE, 2 * IMAGE_SIDE]]
    image_processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": IMAGE_SIDE},
        crop_size={"height": IMAGE_SIDE, "width": IMAGE_SIDE},
        image_grid_pinpoints=tiles,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    processor = LlavaNextProcessor(image_processor, build_tokenizer(), **_FEATURES)
    config = LlavaNextConfig(image_grid_pinpoints=tiles, **_shared(processor.tokenizer))
    return _save(LlavaNextForConditionalGeneration, config, processor, folder, seed)


_FEATURES = {
    "patch_size": PATCH,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
    "image_token": "<image>",
}


def _shared(tokenizer: Any) -> dict[str, Any]:
    """Tower, language model and how they meet."""
    from transformers import LlamaConfig, ViTConfig

    vision = ViTConfig(
        image_size=IMAGE_SIDE,
        patch_size=PATCH,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.5,  # large random weights, so that different images get different texts
    )
    return {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }


def _save(build: Any, config: Any, processor: Any, folder: Path, seed: int) -> Path:
    import torch
    from transformers import GenerationConfig

    tokenizer = processor.tokenizer
    torch.manual_seed(seed)
    model = build(config).eval()
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.weight.mul_(50.0)  # the picture must weigh in the text
    model.generation_config = GenerationConfig(
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def build_tokenizer():  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()  # joins words by spaces and pulls punctuation to the left
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )
