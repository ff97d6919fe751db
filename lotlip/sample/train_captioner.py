"""Train the sample's tiny captioner of the LLaVA class: tower (frozen, pretrained), projector, language model.

    python -m lotlip.sample.train_captioner [--steps 800] [--out lotlip/sample/weights/llava]

Needs the tower of `lotlip.sample.train_tower`. The captioner learns to write `scenes.long_caption` from pixels;
the checkpoint is judged by what it really generates through the workflow's own backend on held-out scenes.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lotlip.records import write_json
from lotlip.sample import scenes
from lotlip.sample.caption_quality import object_scores
from lotlip.sample.scenes import long_caption, make_scene, render
from lotlip.sample.train_tokenizers import PROMPT, captioner_tokenizer
from lotlip.sample.train_tower import HELD_OUT_SEED, TRAIN_SEED, pixels


def build_processor(patch: int) -> Any:
    """The processor saved with the checkpoint: 96 px images, mean = std = 0.5."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": scenes.SIZE},
        crop_size={"height": scenes.SIZE, "width": scenes.SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=captioner_tokenizer(),
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    )


def build_model(tower: Any, tokenizer: Any, width: int, layers: int) -> Any:
    """A LLaVA with a Llama of `layers` x `width` on the tower's last but one layer, as LLaVA-1.5 reads it."""
    from transformers import GenerationConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        intermediate_size=2 * width,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        **special,
    )
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(scenes.SIZE // tower.config.patch_size) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(config)
    missing, unexpected = model.model.vision_tower.load_state_dict(tower.state_dict(), strict=False)
    assert set(missing) == {"pooler.dense.weight", "pooler.dense.bias"}, missing  # LLaVA reads no pooler
    assert not unexpected, unexpected
    model.model.vision_tower.requires_grad_(False)
    model.generation_config = GenerationConfig(**special)
    return model


class TextBatches:
    """Ids and labels of `prompt + caption + </s>` for scenes; labels cover the caption only."""

    def __init__(self, tokenizer: Any, num_image_tokens: int) -> None:
        expanded = PROMPT.replace("<image>", "<image>" * num_image_tokens)
        self.tokenizer = tokenizer
        self.prompt: list[int] = tokenizer(expanded).input_ids

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Ids and labels, int64 [B, L], padded on the right; -100 marks what is not learned."""
        ends = self.tokenizer([" " + text for text in texts], add_special_tokens=False).input_ids
        rows = [self.prompt + ids + [self.tokenizer.eos_token_id] for ids in ends]
        length = max(map(len, rows))
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        labels = torch.full((len(rows), length), -100)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            labels[i, len(self.prompt) : len(row)] = torch.tensor(row[len(self.prompt) :])
        return ids, labels


def train(model: Any, processor: Any, steps: int, batch_size: int, rate: float) -> None:
    """Teach projector and language model; the same steps give the same weights."""
    batches = TextBatches(processor.tokenizer, model.config.image_seq_length)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.08)
    started = time.monotonic()
    for step in range(steps):
        # Other scenes than the tower's: it has not seen them.
        batch = [make_scene(TRAIN_SEED, 10_000_000 + step * batch_size + i) for i in range(batch_size)]
        ids, labels = batches([long_caption(scene) for scene in batch])
        loss = model(
            input_ids=ids,
            attention_mask=(ids != processor.tokenizer.pad_token_id).long(),
            pixel_values=pixels(batch),
            labels=labels,
        ).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            rate_per_s = (step + 1) * batch_size / (time.monotonic() - started)
            print(f"step {step}/{steps} loss {loss.item():.4f} {rate_per_s:.0f} scenes/s", flush=True)


def evaluate(checkpoint: Path, num_scenes: int = 500) -> dict[str, float]:
    """Generate captions of held-out scenes through the workflow's backend and compare them with the truth."""
    from lotlip.captioning.transformers_backend import open_captioner
    from lotlip.params import load_params

    settings = load_params().captioners["llava"].model_copy(update={"checkpoint": str(checkpoint)})
    captioner = open_captioner(settings)
    held_out = [make_scene(HELD_OUT_SEED, index) for index in range(num_scenes)]
    texts: list[str] = []
    for start in range(0, num_scenes, settings.batch_size):
        images = [render(scene) for scene in held_out[start : start + settings.batch_size]]
        texts += [caption.text for caption in captioner.caption(images)]
    return object_scores(held_out, texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--tower", type=Path, default=Path("lotlip/sample/weights/vit"))
    parser.add_argument("--out", type=Path, default=Path("lotlip/sample/weights/llava"))
    parser.add_argument("--card", type=Path, default=Path("lotlip/sample/cards/llava.json"))
    options = parser.parse_args()
    from transformers import ViTModel

    torch.manual_seed(0)
    tower = ViTModel.from_pretrained(options.tower, add_pooling_layer=False, dtype=torch.float32)
    processor = build_processor(tower.config.patch_size)
    assert math.isqrt(scenes.SIZE**2 // tower.config.patch_size**2) * tower.config.patch_size == scenes.SIZE
    model = build_model(tower, processor.tokenizer, options.width, options.layers)
    train(model, processor, options.steps, options.batch_size, options.rate)
    model.half().save_pretrained(options.out)
    processor.save_pretrained(options.out)
    scores = evaluate(options.out)
    print(json.dumps(scores, indent=2))
    write_json(options.card, scores)


if __name__ == "__main__":
    main()
