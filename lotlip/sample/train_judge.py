"""Train the image-text model that judges the sample's captions: how alike are a caption and its image?

    python -m lotlip.sample.train_judge [--out lotlip/sample/weights/judge]

It learns from people's words alone (reference descriptions, their sentences, short captions) for scenes that nothing
else uses, and never sees a captioner's text: it stands where CLIP stands for real images.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from lotlip.model.build import Parts, build_model
from lotlip.model.modeling import LotlipModel
from lotlip.model.processor import LotlipProcessor
from lotlip.params import Method, load_params
from lotlip.records import write_json
from lotlip.sample.scenes import Scene, make_scene, reference_description, render, short_captions
from lotlip.sample.train_tower import HELD_OUT_SEED, TRAIN_SEED, pixels
from lotlip.text.subcaptions import split_sub_captions

FIRST_SCENE = 50_000_000
BATCH, RATE, TOWER_SHARE = 128, 1.5e-3, 0.3


def describe(scene: Scene, rng: random.Random) -> str:
    """Half the time one sentence of the reference description, else all of it or a short caption."""
    whole = reference_description(scene)
    return rng.choice(
        [*(rng.choice(split_sub_captions(whole)) for _ in range(2)), whole, rng.choice(short_captions(scene))]
    )


def train(parts: Parts, steps: int) -> None:
    """Symmetric InfoNCE; the same steps give the same weights."""
    model = parts.model.train()
    tower = list(model.image_tower.parameters())
    others = [p for p in model.parameters() if not any(p is one for one in tower)]
    groups = [{"params": others, "lr": RATE}, {"params": tower, "lr": RATE * TOWER_SHARE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [RATE, RATE * TOWER_SHARE], steps, pct_start=0.1)
    started = time.monotonic()
    for step in range(steps):
        batch = [make_scene(TRAIN_SEED, FIRST_SCENE + step * BATCH + i) for i in range(BATCH)]
        rng = random.Random(step)
        encoded = parts.tokenizer.encode([describe(scene, rng) for scene in batch])
        ids, mask = (torch.from_numpy(array) for array in parts.tokenizer.pad(encoded.ids))
        images, texts = model.get_image_features(pixels(batch)), model.get_text_features(ids, mask)
        logits = model.logit_scale.exp() * images @ texts.T
        own = torch.arange(BATCH)
        loss = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        model.clamp_logit_scale()
        if step % 100 == 0 or step == steps - 1:
            right = (logits.argmax(1) == own).float().mean().item()
            rate = (step + 1) * BATCH / (time.monotonic() - started)
            print(f"step {step}/{steps} loss {loss.item():.3f} right {right:.3f} {rate:.0f} pairs/s", flush=True)


@torch.no_grad()
def evaluate(model: LotlipModel, processor: LotlipProcessor, num_scenes: int = 500) -> dict[str, float]:
    """On held-out scenes: R@1 of whole descriptions, and how often a true sentence is nearer than another scene's."""
    model.eval()
    scenes = [make_scene(HELD_OUT_SEED, index) for index in range(num_scenes)]
    images = model.get_image_features(**processor(images=[render(scene) for scene in scenes]))
    wholes = model.get_text_features(**processor(text=[reference_description(scene) for scene in scenes]))
    sentences = [split_sub_captions(reference_description(scene))[1] for scene in scenes]
    parts = model.get_text_features(**processor(text=sentences))
    found = (images @ wholes.T).argmax(1) == torch.arange(num_scenes)
    own, other = (images * parts).sum(1), (images * parts.roll(1, 0)).sum(1)
    return {
        "scenes": num_scenes,
        "i2t_r1": round(100 * found.float().mean().item(), 1),
        "true_sentence_nearer": round((own > other).float().mean().item(), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--out", type=Path, default=Path("lotlip/sample/weights/judge"))
    parser.add_argument("--card", type=Path, default=Path("lotlip/sample/cards/judge.json"))
    options = parser.parse_args()
    torch.manual_seed(0)
    settings = load_params().train.model_copy(update={"text_dropout": 0.0})
    parts = build_model(settings, Method(image_tower="unlocked"))
    train(parts, options.steps)
    processor = LotlipProcessor(parts.tokenizer, parts.image_settings)
    scores = evaluate(parts.model, processor)
    print(json.dumps(scores, indent=2))
    parts.model.half().save_pretrained(options.out)
    processor.save_pretrained(options.out)
    write_json(options.card, scores)


if __name__ == "__main__":
    main()
