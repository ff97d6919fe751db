"""Train one of the sample's tiny captioners: from pixels through the pretrained tower to its own kind of text.

    python -m lotlip.sample.train_captioner {instructblip,llava,sharegpt4v} [--out lotlip/sample/weights/NAME]

Needs the tower of `lotlip.sample.train_tower`, and the two others need `llava`, whose language model they start from,
as the real ones all start from Vicuna. The checkpoint is judged by what it really generates through the
workflow's own backend on held-out scenes.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lotlip.records import write_json
from lotlip.sample import habits
from lotlip.sample.caption_quality import caption_scores
from lotlip.sample.captioner_models import build_instructblip, build_llava
from lotlip.sample.scenes import Scene, make_scene, render
from lotlip.sample.train_tokenizers import LLAVA_PROMPT, LONG_PROMPT, SHORT_PROMPT, train_bpe, train_wordpiece, wrap
from lotlip.sample.train_tower import (
    CELLS,
    HELD_OUT_SEED,
    TRAIN_SEED,
    WIDTHS,
    accuracies,
    attribute_loss,
    cell_targets,
    pixels,
)

WIDTH, LAYERS = 128, 3
WEIGHTS, CARDS = Path("lotlip/sample/weights"), Path("lotlip/sample/cards")
# Other scenes than the tower's, and other ones for each captioner.
FIRST_SCENE = {"llava": 10_000_000, "instructblip": 20_000_000, "sharegpt4v": 30_000_000, "queries": 40_000_000}


@dataclass(frozen=True)
class Recipe:
    """What a captioner learns, by prompt, and how.

    `tower_rate` is the share of the learning rate that tower and Q-Former get; `start` names the captioner whose
    language model (and, of the same class, all else) it starts from.
    """

    texts: tuple[tuple[str, Callable[[Scene], str]], ...]
    steps: int
    start: str | None = None
    tower_rate: float = 0.0
    batch_size: int = 32
    rate: float = 3e-3


RECIPES = {
    "llava": Recipe(((LLAVA_PROMPT, habits.llava_caption),), steps=800),
    "instructblip": Recipe(
        ((LONG_PROMPT, habits.instructblip_caption), (SHORT_PROMPT, habits.instructblip_short)),
        steps=1500,
        start="llava",
        tower_rate=0.05,
    ),
    "sharegpt4v": Recipe(((LLAVA_PROMPT, habits.sharegpt4v_caption),), steps=600, start="llava", tower_rate=0.1),
}
QUERY_STEPS, QUERY_BATCH, QUERY_RATE = 700, 64, 2e-3


def build(name: str, recipe: Recipe) -> tuple[Any, Any]:
    """Model and processor of a captioner: its tower pretrained, its language model from `start`, all else new."""
    from transformers import LlavaForConditionalGeneration, ViTModel

    tower = ViTModel.from_pretrained(WEIGHTS / "vit", add_pooling_layer=False, dtype=torch.float32)
    tokenizer = train_bpe()
    if name != "instructblip":
        model, processor = build_llava(tower, tokenizer, WIDTH, LAYERS)
    else:
        model, processor = build_instructblip(tower, tokenizer, wrap(train_wordpiece()), WIDTH, LAYERS)
    if recipe.start is not None:
        start = LlavaForConditionalGeneration.from_pretrained(WEIGHTS / recipe.start, dtype=torch.float32)
        if name == "instructblip":
            model.language_model.model.load_state_dict(start.model.language_model.state_dict())
            model.language_model.lm_head.load_state_dict(start.lm_head.state_dict())
        else:
            model.load_state_dict(start.state_dict())
    return model, processor


class Examples:
    """Inputs and labels of `prompt + text + </s>`, the prompt as the processor makes it; the text alone is learned."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer

    def __call__(self, batch: Sequence[Scene], prompt: str, texts: Sequence[str]) -> dict[str, Tensor]:
        images = [render(scene) for scene in batch]
        inputs = dict(self.processor(images=images, text=[prompt] * len(batch), return_tensors="pt"))
        prompts = inputs.pop("input_ids")
        inputs.pop("attention_mask")
        endings = self.tokenizer([f" {text}" for text in texts], add_special_tokens=False).input_ids
        longest = max(map(len, endings)) + 1
        ids = torch.full((len(batch), longest), self.tokenizer.pad_token_id)
        labels = torch.full((len(batch), longest), -100)
        for row, label, ending in zip(ids, labels, endings, strict=True):
            whole = torch.tensor([*ending, self.tokenizer.eos_token_id])
            row[: len(whole)] = label[: len(whole)] = whole
        input_ids = torch.cat([prompts, ids], dim=1)
        return {
            **inputs,
            "input_ids": input_ids,
            "attention_mask": (input_ids != self.tokenizer.pad_token_id).long(),
            "labels": torch.cat([torch.full_like(prompts, -100), labels], dim=1),
        }


def align_queries(model: Any, processor: Any) -> None:
    """Teach the Q-Former to look: each of its first queries names what stands in a cell of the scene.

    As BLIP-2 teaches its queries before it joins them to a language model (arXiv:2301.12597, section 3.1). The tower
    learns along: its patches say what they show, but too faintly where they are for queries to find them.
    """
    head = nn.Linear(model.config.qformer_config.hidden_size, sum(WIDTHS))
    parts = (model.vision_model, model.qformer, head)
    learned = [model.query_tokens, *(parameter for part in parts for parameter in part.parameters())]
    optimizer = torch.optim.AdamW(learned, lr=QUERY_RATE, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, QUERY_RATE, total_steps=QUERY_STEPS, pct_start=0.1)
    asked = (LONG_PROMPT, SHORT_PROMPT)
    prompts = [processor.qformer_tokenizer(prompt, return_tensors="pt").input_ids for prompt in asked]
    for step in range(QUERY_STEPS):
        first = FIRST_SCENE["queries"] + step * QUERY_BATCH
        batch = [make_scene(TRAIN_SEED, first + i) for i in range(QUERY_BATCH)]
        prompt = prompts[step % 2].expand(QUERY_BATCH, -1)
        seen = model.get_image_features(pixel_values=pixels(batch), qformer_input_ids=prompt).qformer_outputs[0]
        logits, targets = head(seen[:, :CELLS]), torch.from_numpy(np.stack([cell_targets(scene) for scene in batch]))
        loss = attribute_loss(logits, targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == QUERY_STEPS - 1:
            print(f"queries {step}/{QUERY_STEPS} loss {loss.item():.3f} {accuracies(logits, targets)}", flush=True)


def train(name: str, model: Any, processor: Any, recipe: Recipe, steps: int) -> None:
    """Teach all parts (tower and Q-Former at their own rate, or not at all); the same steps give the same weights."""
    seeing = [p for part, p in model.named_parameters() if any(word in part for word in ("vision", "qformer", "query"))]
    others = [p for p in model.parameters() if not any(p is one for one in seeing)]
    groups = [{"params": others, "lr": recipe.rate}]
    if recipe.tower_rate:
        groups.append({"params": seeing, "lr": recipe.rate * recipe.tower_rate})
    else:
        for parameter in seeing:
            parameter.requires_grad_(False)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.02, betas=(0.9, 0.98))
    rates = [float(group["lr"]) for group in groups]  # type: ignore[arg-type]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.08)
    examples = Examples(processor)
    started = time.monotonic()
    for step in range(steps):
        first = FIRST_SCENE[name] + step * recipe.batch_size
        batch = [make_scene(TRAIN_SEED, first + i) for i in range(recipe.batch_size)]
        prompt, write = recipe.texts[1 if len(recipe.texts) > 1 and step % 4 == 3 else 0]
        loss = model(**examples(batch, prompt, [write(scene) for scene in batch])).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            rate_per_s = (step + 1) * recipe.batch_size / (time.monotonic() - started)
            print(f"step {step}/{steps} loss {loss.item():.4f} {rate_per_s:.0f} scenes/s", flush=True)


def evaluate(name: str, checkpoint: Path, num_scenes: int = 500) -> dict[str, float]:
    """Generate captions of held-out scenes through the workflow's backend and compare them with the truth."""
    from lotlip.captioning.backends import open_captioner
    from lotlip.params import TransformersCaptioner, load_params

    settings = load_params().captioners[name]
    assert isinstance(settings, TransformersCaptioner)
    captioner = open_captioner(settings.model_copy(update={"checkpoint": str(checkpoint)}))
    held_out = [make_scene(HELD_OUT_SEED, index) for index in range(num_scenes)]
    captions = []
    for start in range(0, num_scenes, settings.batch_size):
        captions += captioner.caption([render(scene) for scene in held_out[start : start + settings.batch_size]])
    texts = [caption.text for caption in captions]
    tokens = sum(caption.num_tokens or 0 for caption in captions) / len(captions)
    return {**caption_scores(held_out, texts), "tokens": round(tokens, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--steps", type=int, help="default: the recipe's")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--card", type=Path)
    options = parser.parse_args()
    name, recipe = options.name, RECIPES[options.name]
    out, card = options.out or WEIGHTS / name, options.card or CARDS / f"{name}.json"
    torch.manual_seed(0)
    model, processor = build(name, recipe)
    if name == "instructblip":
        align_queries(model, processor)
    train(name, model, processor, recipe, options.steps or recipe.steps)
    model.half().save_pretrained(out)
    processor.save_pretrained(out)
    scores = evaluate(name, out)
    print(json.dumps(scores, indent=2))
    write_json(card, scores)


if __name__ == "__main__":
    main()
