"""Layers on packed rows: names and fresh weights of transformers' own, called as modules, checkpointed on request."""

from collections import Counter

import pytest
import torch
from transformers import BertModel, CLIPTextModel, ViTConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from lotlip.model.config import LotlipConfig
from lotlip.model.modeling import LotlipModel
from lotlip.model.text_tower import build_text_tower
from tests.model.test_causal_tower import LIMIT, make_texts, text_config
from tests.model.tiny_parts import make_ids, tiny_config

DROPOUT = 0.3


def make_config(kind: str) -> LotlipConfig:
    """Both with dropout in attention, BERT with that of hidden states, too."""
    vision = ViTConfig(
        image_size=16, patch_size=8, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        hidden_dropout_prob=DROPOUT,
    )  # fmt: skip
    if kind == "bert":
        config = tiny_config()
        config.vision_config = vision
        config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = DROPOUT
        return config
    text = text_config(0)
    text.attention_dropout = DROPOUT
    return LotlipConfig(text_config=text, vision_config=vision, embed_dim=32, num_corner_tokens=0, token_limit=LIMIT)


def make_batch(kind: str) -> dict[str, torch.Tensor]:
    """Three images with two texts each."""
    ids = make_ids([4, 9, 1], 2) if kind == "bert" else make_texts(0)[:3]
    return {"input_ids": torch.stack([ids, ids.flip(0)], dim=1), "pixel_values": torch.rand(3, 3, 16, 16)}


@pytest.mark.parametrize(("kind", "stock"), [("bert", BertModel), ("causal", CLIPTextModel)])
def test_names_are_those_of_the_stock_transformer(kind: str, stock: type) -> None:
    config = make_config(kind)
    expected = {name: x.shape for name, x in stock._from_config(config.text_config).state_dict().items()}
    tower = build_text_tower(config)
    assert {name: x.shape for name, x in tower.transformer.state_dict().items()} == expected


@pytest.mark.parametrize("kind", ["bert", "causal"])
def test_every_layer_is_called_as_a_module(kind: str) -> None:
    model, calls = LotlipModel(make_config(kind)), []
    layers = {name: x for name, x in model.named_modules() if isinstance(x, GradientCheckpointingLayer)}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda *_, name=name: calls.append(name))
    model(**make_batch(kind))
    assert len(layers) == 6
    assert calls == sorted(calls, key=lambda name: name.startswith("image_tower"))  # texts first
    assert set(calls) == set(layers)


@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["bert", "causal"])
def test_gradient_checkpointing_changes_no_gradient_and_no_draw(kind: str, training: bool, locked: bool) -> None:
    torch.manual_seed(0)
    model = LotlipModel(make_config(kind)).double().train(training)
    if locked:
        model.image_tower.requires_grad_(False).eval()
    batch = make_batch(kind)
    batch["pixel_values"] = batch["pixel_values"].double()

    def run() -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(1)  # of dropout
        output = model(**batch)
        (output.text_embeds.sin().sum() + output.image_embeds.sin().sum()).backward()
        drawn = {"drawn afterwards": torch.rand(3)}
        return drawn | {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = run()
    assert any(name.startswith("image_tower") for name in expected) != locked
    counts = count_linear_calls(model)
    run()
    once = dict(counts)
    counts.clear()
    model.activation_checkpointing_enable()
    found = run()
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert torch.equal(gradient, expected[name]), name
    checkpointed = {name for name in once if training and not (locked and name.startswith("image_tower"))}
    assert counts == {name: calls * (2 if name in checkpointed else 1) for name, calls in once.items()}


def test_a_locked_image_tower_keeps_no_activations_under_gradient_checkpointing() -> None:
    model = LotlipModel(make_config("bert")).train()
    model.image_tower.requires_grad_(False)
    model.activation_checkpointing_enable()
    assert not model(**make_batch("bert")).image_embeds.requires_grad


def count_linear_calls(model: LotlipModel) -> Counter[str]:
    """Calls of the linear parts of all layers from now on."""
    counts: Counter[str] = Counter()
    for name, layer in model.named_modules():
        if isinstance(layer, GradientCheckpointingLayer):
            for part, module in layer.named_modules():
                if isinstance(module, torch.nn.Linear):
                    module.register_forward_pre_hook(lambda *_, name=f"{name}.{part}": counts.update([name]))
    return counts
