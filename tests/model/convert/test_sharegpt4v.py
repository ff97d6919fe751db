"""ShareGPT4V's two folders, in the original key names and tiny, become one LLaVA with the original's weights."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from lotlip.captioning.backends import open_captioner
from lotlip.errors import ModelError
from lotlip.model.convert.sharegpt4v import convert_sharegpt4v
from lotlip.params import TransformersCaptioner
from tests.captioning.tiny import build_tokenizer

LLM = {
    "model_type": "share4v",
    "mm_projector_type": "mlp2x_gelu",
    "mm_hidden_size": 24,
    "mm_vision_select_layer": -2,
    "image_aspect_ratio": "pad",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOWER = {
    "model_type": "clip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}


def original_tokenizer():
    """As the release has it: without image and pad tokens."""
    tokenizer = build_tokenizer()
    record = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = record["model"]["vocab"]
    words = [word for word in vocabulary if word not in ("<pad>", "<image>")]
    record["model"]["vocab"] = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *words[3:]])}
    record["added_tokens"] = [t for t in record["added_tokens"] if t["content"] in ("<unk>", "<s>", "</s>")]
    for token in record["added_tokens"]:
        token["id"] = ["<unk>", "<s>", "</s>"].index(token["content"])
    record["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(json.dumps(record))
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture
def release(tmp_path: Path) -> tuple[Path, Path, dict[str, torch.Tensor]]:
    """The two folders, and all tensors under their original names (tower's after `tower.`)."""
    torch.manual_seed(0)
    llm, tower = tmp_path / "llm", tmp_path / "tower"
    tokenizer = original_tokenizer()
    tokenizer.save_pretrained(llm)
    vocab = len(tokenizer)
    (llm / "config.json").write_text(json.dumps({**LLM, "vocab_size": vocab}))
    tower.mkdir()
    (tower / "config.json").write_text(json.dumps(TOWER))
    language = {
        "model.embed_tokens.weight": (vocab, 32),
        "model.norm.weight": (32,),
        "lm_head.weight": (vocab, 32),
        "model.mm_projector.0.weight": (32, 24),
        "model.mm_projector.0.bias": (32,),
        "model.mm_projector.2.weight": (32, 32),
        "model.mm_projector.2.bias": (32,),
    }
    for i in range(2):
        layer = f"model.layers.{i}."
        language |= {f"{layer}self_attn.{part}_proj.weight": (32, 32) for part in "qkvo"}
        language |= {f"{layer}mlp.{part}_proj.weight": (64, 32) for part in ("gate", "up")}
        language |= {f"{layer}mlp.down_proj.weight": (32, 64)}
        language |= {f"{layer}{part}_layernorm.weight": (32,) for part in ("input", "post_attention")}
    vision = {
        "vision_model.embeddings.class_embedding": (24,),
        "vision_model.embeddings.patch_embedding.weight": (24, 3, 16, 16),
        "vision_model.embeddings.position_embedding.weight": (5, 24),
        "vision_model.pre_layrnorm.weight": (24,),
        "vision_model.pre_layrnorm.bias": (24,),
        "vision_model.post_layernorm.weight": (24,),
        "vision_model.post_layernorm.bias": (24,),
    }
    for i in range(3):
        layer = f"vision_model.encoder.layers.{i}."
        for part, shape in (
            ("mlp.fc1", (48, 24)),
            ("mlp.fc2", (24, 48)),
            ("layer_norm1", (24,)),
            ("layer_norm2", (24,)),
        ):
            vision |= {f"{layer}{part}.weight": shape, f"{layer}{part}.bias": (shape[0],)}
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            vision |= {f"{layer}self_attn.{part}.weight": (24, 24), f"{layer}self_attn.{part}.bias": (24,)}
    made = {name: 0.3 * torch.randn(shape) for name, shape in language.items()}
    seen = {name: 0.3 * torch.randn(shape) for name, shape in vision.items()}
    halves = list(made)
    torch.save({n: made[n] for n in halves[::2]}, llm / "pytorch_model-00001-of-00002.bin")
    second = {n: made[n] for n in halves[1::2]} | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)}
    torch.save(second, llm / "pytorch_model-00002-of-00002.bin")
    torch.save({**seen, "vision_model.embeddings.position_ids": torch.arange(5)[None]}, tower / "pytorch_model.bin")
    return llm, tower, {**made, **{f"tower.{name}": x for name, x in seen.items()}}


def test_every_weight_finds_its_place(release: tuple, tmp_path: Path) -> None:
    llm, tower, originals = release
    report = convert_sharegpt4v(llm, tower, tmp_path / "out", dtype="float32")
    assert report["feature_layer"] == -2
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    vocab = len(originals["lm_head.weight"])
    found = model.state_dict()
    places = {
        "lm_head.weight": "lm_head.weight",
        "model.mm_projector.0.weight": "model.multi_modal_projector.linear_1.weight",
        "model.mm_projector.2.bias": "model.multi_modal_projector.linear_2.bias",
        "model.layers.1.mlp.down_proj.weight": "model.language_model.layers.1.mlp.down_proj.weight",
        "model.embed_tokens.weight": "model.language_model.embed_tokens.weight",
        "tower.vision_model.encoder.layers.2.self_attn.q_proj.bias": (
            "model.vision_tower.encoder.layers.2.self_attn.q_proj.bias"
        ),
        "tower.vision_model.embeddings.class_embedding": "model.vision_tower.embeddings.class_embedding",
    }
    for original, place in places.items():
        expected = originals[original]
        assert torch.equal(found[place][: len(expected)], expected), original
    total = sum(x.numel() for x in originals.values()) + 2 * 2 * 32  # two tokens, in and out
    assert sum(p.numel() for p in model.parameters()) == total == report["parameters"]
    assert (model.config.image_token_index, model.config.text_config.pad_token_id) == (vocab, vocab + 1)


def test_it_captions_through_the_workflows_backend(release: tuple, tmp_path: Path) -> None:
    llm, tower, _ = release
    convert_sharegpt4v(llm, tower, tmp_path / "out", dtype="float32")
    settings = TransformersCaptioner(
        kind="transformers",
        checkpoint=str(tmp_path / "out"),
        revision=None,
        prompt="Describe the image in detail",
        template="USER: <image>\n{prompt} ASSISTANT:",
        dtype="float32",
        device="cpu",
        batch_size=4,
        max_new_tokens=8,
        do_sample=False,
        temperature=1.0,
        top_p=1.0,
        seed=0,
    )
    captioner = open_captioner(settings)
    images = [Image.new("RGB", (40, 20), colour) for colour in ("red", "blue")]
    together = captioner.caption(images)
    assert [caption.num_tokens for caption in together] == [8, 8]
    assert together == [captioner.caption([image])[0] for image in images]
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert processor.image_processor.do_pad, "wide images are padded to a square, not cut"


def test_what_does_not_fit_is_refused(release: tuple, tmp_path: Path) -> None:
    llm, tower, _ = release
    out = tmp_path / "out"
    (tower / "config.json").write_text(json.dumps({**TOWER, "hidden_size": 32}))
    with pytest.raises(ModelError, match="reads features of 24 and the tower gives 32"):
        convert_sharegpt4v(llm, tower, out)
    (tower / "config.json").write_text(json.dumps(TOWER))
    with pytest.raises(ModelError, match="mm_projector_type None"):
        convert_sharegpt4v(tower, tower, out)
    weights = torch.load(tower / "pytorch_model.bin")
    del weights["vision_model.post_layernorm.bias"]
    torch.save(weights, tower / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"lack model\.vision_tower\.post_layernorm\.bias"):
        convert_sharegpt4v(llm, tower, out)
    (llm / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(ModelError, match="1 of 2 parts"):
        convert_sharegpt4v(llm, tower, out)
    assert not out.exists()
