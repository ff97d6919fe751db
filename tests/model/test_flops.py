"""Useful FLOPs against torch's own counter on real tiny models, forward and backward, exactly.

The counter sees products of matrices; with the `math` kernel attention is made of them. It counts them as they are
computed: a masked product in full, where ours is what the mask leaves. These differences are written out by hand.
"""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BertConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    DeiTConfig,
    Dinov2Config,
    SiglipVisionConfig,
    ViTConfig,
)

from lotlip.errors import ModelError
from lotlip.losses.contrastive import contrastive_loss
from lotlip.model.config import LotlipConfig
from lotlip.model.flops import image_flops, step_flops, text_flops
from lotlip.model.gpus import peak_flops
from lotlip.model.image_tower import build_image_tower, image_features
from lotlip.model.modeling import LotlipModel
from tests.model.tiny_parts import PLAIN_VOCAB, make_ids, tiny_config

SHAPE = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4}
IMAGE = {**SHAPE, "image_size": 32, "patch_size": 8}
LENGTHS = [3, 5, 5, 9]  # tokens between [CLS], corners and [SEP]


def counted(function) -> int:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def causal_config(token_features: bool = False) -> LotlipConfig:
    text = CLIPTextConfig(
        vocab_size=PLAIN_VOCAB, intermediate_size=56, max_position_embeddings=16, pad_token_id=0, **SHAPE
    )
    vision = ViTConfig(intermediate_size=40, **IMAGE)
    return LotlipConfig(
        text_config=text, vision_config=vision, embed_dim=20, num_corner_tokens=0, token_limit=16,
        token_features=token_features, image_projection=True,
    )  # fmt: skip


def masked_pairs(lengths: np.ndarray, config: LotlipConfig) -> float:
    """Products of attention that a mask hides and the counter counts, FLOPs of one full layer."""
    n, m, width = lengths, config.num_corner_tokens, config.text_config.hidden_size
    hidden = n * (n - 1) / 2 if config.text_config.model_type == "clip_text_model" else n * m
    return float(4 * width * hidden.sum())


@pytest.mark.parametrize("num_corners", [0, 2])
@pytest.mark.parametrize("mask", [True, False])
def test_of_a_bert_with_corners(num_corners: int, mask: bool) -> None:
    config = tiny_config(num_corners, corner_mask=mask)
    tower = LotlipModel(config).text_tower.train()
    ids = make_ids(LENGTHS, num_corners)
    n = np.array(LENGTHS) + 2 + num_corners
    short, long = text_flops(config, n), text_flops(config, n, corners=True)
    assert counted(lambda: tower.encode_classes(ids)) == short
    # Under the mask n rows see n - m; the counter's dense mask shows them all n, the 1 + m read ones too.
    width = config.text_config.hidden_size
    hidden = 0.0
    if mask:
        hidden = 2 * masked_pairs(n, config) + 4 * width * ((1 + num_corners) * num_corners * len(n))
    assert counted(lambda: tower.encode_slots(ids)) == long + hidden
    assert counted(lambda: tower.encode_slots(ids).sum().backward()) == 3 * (long + hidden)


@pytest.mark.parametrize("token_features", [False, True])
def test_of_a_causal_tower(token_features: bool) -> None:
    config = causal_config(token_features)
    tower = LotlipModel(config).text_tower.train()
    ids = make_ids(LENGTHS, 0)
    n = np.array(LENGTHS) + 2
    encode = tower.encode_tokens if token_features else tower.encode_classes
    found = counted(lambda: encode(ids))
    layers_with_mask = 3 if token_features else 2  # the last layer of the other reads one row, which sees all
    assert found == text_flops(config, n) + layers_with_mask * masked_pairs(n, config)


VISIONS = [
    ViTConfig(intermediate_size=40, **IMAGE),
    DeiTConfig(intermediate_size=40, **IMAGE),
    Dinov2Config(mlp_ratio=2, **IMAGE),
    Dinov2Config(mlp_ratio=4, use_swiglu_ffn=True, **IMAGE),
    CLIPVisionConfig(intermediate_size=40, **IMAGE),
    SiglipVisionConfig(intermediate_size=40, **IMAGE),
]


@pytest.mark.parametrize("config", VISIONS, ids=lambda config: config.model_type)
def test_of_each_image_tower(config) -> None:
    tower = build_image_tower(config).train()
    pixels = torch.randn(5, 3, 32, 32)
    forward = 5 * image_flops(config)
    assert counted(lambda: image_features(tower, pixels)) == forward
    patches = 5 * 2 * 16 * (3 * 64) * 24  # no gradient of pixels
    assert counted(lambda: image_features(tower, pixels).sum().backward()) == 3 * forward - patches


def test_of_a_whole_step() -> None:
    config = LotlipConfig(
        text_config=BertConfig(vocab_size=PLAIN_VOCAB, intermediate_size=56, max_position_embeddings=16, **SHAPE),
        vision_config=ViTConfig(intermediate_size=40, **IMAGE),
        embed_dim=20,
        image_projection=True,
        num_corner_tokens=0,
        token_limit=16,
    )
    model = LotlipModel(config).train()
    ids = torch.stack([make_ids(LENGTHS, 0, 16), make_ids(LENGTHS[::-1], 0, 16)], dim=1)
    pixels, n = torch.randn(4, 3, 32, 32), np.array(LENGTHS) + 2

    def step(**images: torch.Tensor) -> None:
        output = model(input_ids=ids, **images)
        loss, _ = contrastive_loss(output.image_embeds, output.text_embeds, output.logit_scale, [0.5, 0.5])
        loss.backward()

    trained = step_flops(config, n, n, image="trained", batch_size=4)
    assert trained.loss == 3 * 2 * 4 * 8 * 20  # 4 images meet 4 texts in each of 2 slots
    unseen = 2 * trained.loss / 3  # the loss adds its gradients up in place, which the counter does not know
    assert counted(lambda: step(pixel_values=pixels)) == trained.total - unseen
    model.image_tower.requires_grad_(False)
    locked = step_flops(config, n, n, image="locked", batch_size=4)
    assert counted(lambda: step(pixel_values=pixels)) == locked.total - unseen
    cached = step_flops(config, n, n, image="cached", batch_size=4)
    assert counted(lambda: step(image_embeds=torch.randn(4, 24))) == cached.total - unseen
    assert (cached.image_forward, cached.short_texts) == (4 * 2 * 24 * 20, locked.short_texts)


def test_of_late_interaction_by_hand() -> None:
    """2 pairs of a batch of 6, 16 patches; texts of 5 and 7 tokens: 2 x 16 patches meet 3 x 12 tokens."""
    flops = step_flops(causal_config(token_features=True), [5, 7], [], image="cached", batch_size=6)
    assert flops.loss == 3 * 2 * 20 * (2 * 16) * (3 * 12)
    assert flops.long_texts == 0
    assert flops.image_forward == 2 * 2 * 16 * 24 * 20


def test_the_papers_towers() -> None:
    """ViT-B/16 is commonly given with 17.6 billion multiply-adds an image, ViT-B/32 with 4.4."""
    assert image_flops(ViTConfig()) / 2e9 == pytest.approx(17.6, abs=0.1)
    assert image_flops(ViTConfig(patch_size=32)) / 2e9 == pytest.approx(4.4, abs=0.05)
    with pytest.raises(ModelError, match="'swin' are not known"):
        image_flops(type("Config", (), {"model_type": "swin", "hidden_size": 8})())


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5e12),
        ("NVIDIA H100 PCIe", 756.5e12),
        ("NVIDIA H100 NVL", 835.5e12),
        ("NVIDIA H200", 989.5e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362.05e12),
        ("NVIDIA A10", 125e12),
        ("Tesla V100-SXM2-32GB", None),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("H100", 989.5e12),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Quadro", None),
    ],
)
def test_peaks_of_gpus(name: str, peak: float | None) -> None:
    assert peak_flops(name, "bfloat16") == peak


def test_peaks_follow_the_precision() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3", "float32") == 494.5e12
    assert peak_flops("NVIDIA H100 80GB HBM3", "float32", tf32=False) == 67e12
    assert peak_flops("Tesla V100-SXM2-16GB", "float32") == 15.7e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "float64") == 9.7e12
