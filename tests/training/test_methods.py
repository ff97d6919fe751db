"""Every objective and text recipe trains: its loss falls, and its texts find their images."""

import pytest
import torch

from lotlip.losses.late_interaction import late_interaction_scores
from lotlip.model.modeling import LotlipModel, LotlipOutput
from lotlip.model.processor import LotlipProcessor
from lotlip.params import Method
from lotlip.text.subcaptions import normalize_long, split_sub_captions
from lotlip.training.objective import compute_loss
from tests.losses import slow
from tests.losses.slow import unit
from tests.training.tiny_training import LOTLIP, Project, pixels_of

METHODS = {
    "clip": Method(image_tower="unlocked", image_projection=True, text_tower="causal"),
    "laclip": Method(text_tower="causal", short_text="raw_or_rewrite"),
    "siglip": Method(objective="sigmoid"),
    "filip": Method(text_tower="causal", objective="late_interaction"),
    "longclip": Method(
        text_tower="causal",
        short_text="first_sentence",
        num_long=1,
        long_text="whole",
        short_components=4,
        label_smoothing=0.1,
    ),
    "lotlip_sigmoid": LOTLIP.model_copy(update={"objective": "sigmoid"}),
    "lotlip_no_mask": LOTLIP.model_copy(update={"corner_mask": False}),
}


def queries(project: Project, method: Method) -> list[str]:
    if method.num_long:
        return [normalize_long(sample.long[0]) for sample in project.samples]
    return [sample.raw for sample in project.samples]


def text_to_image_recall(project: Project, method: Method) -> float:
    """Share of texts whose own image is the nearest of 64, by the published folder alone."""
    model = LotlipModel.from_pretrained(project.folder / "model").eval()
    processor = LotlipProcessor.from_pretrained(project.folder / "model")
    pixels = pixels_of(project.images, project.samples, processor.image_settings, project.folder / "shards")
    texts = processor(text=queries(project, method))
    with torch.no_grad():
        if model.config.token_features:
            tokens = model.get_text_token_features(**texts)
            scores = late_interaction_scores(model.get_image_token_features(pixels), *tokens)[1].T
        else:
            scores = model.get_text_features(**texts) @ model.get_image_features(pixels).T
    return (scores.argmax(dim=1) == torch.arange(len(scores))).float().mean().item()


@pytest.mark.parametrize("name", METHODS)
def test_it_learns(project: Project, name: str) -> None:
    method = METHODS[name]
    # A pairwise question at a time learns slower from 64 images than a choice among 16.
    epochs = 200 if method.objective == "sigmoid" else 60
    result = project.train(method, epochs=epochs, text_dropout=0.0, run_length=4)
    first, last = result.curve[0]["loss"], result.metrics["loss"]
    assert last < 0.8 * first, f"loss from {first} to {last}"
    assert text_to_image_recall(project, method) > 0.25, "16 times chance"
    assert result.metrics["skipped_steps"] == 0


def output(**changes: torch.Tensor) -> LotlipOutput:
    values = {
        "image_embeds": unit(12, 6),
        "text_embeds": unit(12, 3, 6),
        "logit_scale": torch.tensor(9.0, dtype=torch.float64),
    }
    return LotlipOutput(**{**values, **changes})


def test_long_clips_objective_is_the_sum_of_its_two_parts(project: Project) -> None:
    settings = project.settings(weight_raw=2.0, weight_long=0.5)
    method = METHODS["longclip"]
    made = output(text_embeds=unit(12, 2, 6))
    loss, slots = compute_loss(made, method, settings)
    image, text, scale = made.image_embeds, made.text_embeds, made.logit_scale
    centred = image - image.mean(0)
    basis = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -4:]
    principal = image.mean(0) + centred @ basis @ basis.T
    short = slow.contrastive(principal, text[:, :1], scale, [1.0], 0.1)
    long = slow.contrastive(image, text[:, 1:], scale, [1.0], 0.1)
    assert slots.tolist() == pytest.approx([short.item(), long.item()])
    assert loss.item() == pytest.approx((2.0 * short.item() + 0.5 * long.item()) / 2)


def test_weights_hold_for_every_objective(project: Project) -> None:
    settings = project.settings(weight_raw=2.0, weight_long=0.5)
    bias = torch.tensor(-2.0, dtype=torch.float64)
    for objective in ("softmax", "sigmoid"):
        loss, slots = compute_loss(output(logit_bias=bias), Method(objective=objective), settings)
        assert loss.item() == pytest.approx((2.0 * slots[0] + 0.5 * slots[1:].sum()).item() / 3)


def test_texts_of_the_recipe_reach_the_model(project: Project) -> None:
    sample = project.samples[0]
    assert len(split_sub_captions(sample.long[0])) == 4, "what the whole text has and a run of 2 has not"
    whole = project.train(METHODS["longclip"], epochs=1).metrics
    runs = project.train(METHODS["longclip"].model_copy(update={"long_text": "runs"}), epochs=1).metrics
    assert whole["loss_long0_cls"] != runs["loss_long0_cls"]
    assert whole["without_rewrite"] == 64
