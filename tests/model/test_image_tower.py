"""Every kind of image tower: its feature, its patches, and a pretrained folder opened again."""

from pathlib import Path

import pytest
import torch
import transformers

from lotlip.errors import ModelError
from lotlip.model.image_tower import build_image_tower, freeze_unread, image_features, load_image_tower

SHAPE = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
CONFIGS = {
    "vit": transformers.ViTConfig(**SHAPE),
    "deit": transformers.DeiTConfig(**SHAPE),
    "dinov2": transformers.Dinov2Config(**SHAPE),
    "clip": transformers.CLIPVisionConfig(**SHAPE),
    "siglip": transformers.SiglipVisionConfig(**SHAPE),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_features_patches_and_folder(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tower = build_image_tower(CONFIGS[name]).eval()
    pixels = torch.randn(3, 3, 16, 16)
    features, patches = image_features(tower, pixels), image_features(tower, pixels, patches=True)
    assert features.shape == (3, 24)
    assert patches.shape == (3, 4, 24)
    moved = pixels.clone()
    moved[0, :, :8, :8] += 1
    change = (image_features(tower, moved, patches=True) - patches).abs().amax(dim=(1, 2))
    assert change[0] > 0
    assert change[1:].max() == 0
    states = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
    norm = next(module for part, module in tower.named_modules() if part in ("layernorm", "post_layernorm"))
    torch.testing.assert_close(norm(states)[:, -4:], patches, atol=1e-5, rtol=0)
    if name != "siglip":
        torch.testing.assert_close(norm(states)[:, 0], features, atol=1e-5, rtol=0)
    tower.save_pretrained(tmp_path)
    opened = load_image_tower(str(tmp_path))
    assert opened.settings.size == 16
    torch.testing.assert_close(image_features(opened.tower.eval(), pixels), features)


@pytest.mark.parametrize("patches", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_all_that_is_trained_gets_a_gradient(name: str, patches: bool) -> None:
    torch.manual_seed(0)
    tower = build_image_tower(CONFIGS[name])
    freeze_unread(tower, patches=patches)
    image_features(tower, torch.randn(3, 3, 16, 16), patches=patches).square().sum().backward()
    trained = {name: p for name, p in tower.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []
    frozen = [name for name, p in tower.named_parameters() if not p.requires_grad]
    expected = {"dinov2": "embeddings.mask_token", "siglip": "head." if patches else None}.get(name)
    assert all(expected and found.startswith(expected) for found in frozen)
    assert bool(frozen) == (expected is not None)


def test_unknown_kinds_are_named() -> None:
    with pytest.raises(ModelError, match=r"'resnet' is not known; known are vit, deit, dinov2"):
        build_image_tower(transformers.ResNetConfig())


def test_mean_and_deviation_come_with_the_checkpoint(tmp_path: Path) -> None:
    build_image_tower(CONFIGS["clip"]).save_pretrained(tmp_path)
    assert load_image_tower(str(tmp_path)).settings.mean == (0.5, 0.5, 0.5)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.4, 0.4]}')
    for fresh in (False, True):
        settings = load_image_tower(str(tmp_path), fresh=fresh).settings
        assert (settings.size, settings.mean, settings.std) == (16, (0.1, 0.2, 0.3), (0.4, 0.4, 0.4))
