"""A tiny random checkpoint of the InstructBLIP class: its processor puts the image tokens before the prompt
itself, and its Q-Former reads the prompt through a tokenizer of its own."""

from pathlib import Path

from tests.captioning.tiny import IMAGE_SIDE, PATCH, WORDS, build_tokenizer

NUM_QUERIES = 4


def build_tiny_instructblip(folder: Path, seed: int = 0) -> Path:
    """Save a random InstructBLIP over a Llama with its processor into `folder` and return the folder."""
    import torch
    from transformers import (
        BertTokenizer,
        GenerationConfig,
        InstructBlipConfig,
        InstructBlipForConditionalGeneration,
        InstructBlipProcessor,
        LlamaConfig,
    )
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    tokenizer = build_tokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    qformer_tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate([*special, *WORDS])})
    processor = InstructBlipProcessor(
        BlipImageProcessorPil(size={"height": IMAGE_SIDE, "width": IMAGE_SIDE}),
        tokenizer,
        qformer_tokenizer,
        num_query_tokens=NUM_QUERIES,
    )
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = InstructBlipConfig(
        # The default initial weights of this tower are 1e-10: every image would look the same.
        vision_config={**small, "image_size": IMAGE_SIDE, "patch_size": PATCH, "initializer_range": 0.5},
        qformer_config={
            **small,
            "vocab_size": len(qformer_tokenizer),
            "encoder_hidden_size": 32,
            "max_position_embeddings": 64,
            "initializer_range": 0.5,
        },
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), **small, **ids, initializer_range=0.5, num_key_value_heads=2
        ).to_dict(),
        num_query_tokens=NUM_QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(seed)
    model = InstructBlipForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.query_tokens.normal_()  # zeros at the start of training
        model.language_projection.weight.mul_(50.0)
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
