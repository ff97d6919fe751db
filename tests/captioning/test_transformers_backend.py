"""Captions of real (tiny, random) LLaVA and InstructBLIP checkpoints, saved and reopened."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lotlip.captioning import transformers_backend
from lotlip.captioning.transformers_backend import TransformersCaptioner, open_transformers
from lotlip.errors import ModelError
from tests.captioning.samples import captioner_params, make_pictures
from tests.captioning.tiny import TEMPLATE, build_tiny_llava, build_tiny_llava_next
from tests.captioning.tiny_instructblip import build_tiny_instructblip

PICTURES = make_pictures(9)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }}: "
    "{% for part in message.content %}{% if part.type == 'image' %}<image>{% else %}{{ part.text }}"
    "{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def captioner(llava: Path) -> TransformersCaptioner:
    return open_transformers(captioner_params(llava))


def greedy_reference(captioner: TransformersCaptioner, image: Image.Image, limit: int) -> list[int]:
    """Greedy decoding by hand: one image, no cache, the whole sequence through the model for every token."""
    loaded = captioner._loaded
    prompt = TEMPLATE.replace("{prompt}", "Describe the image in detail")
    inputs = loaded.processor(images=[image], text=[prompt], return_tensors="pt")
    ids, made = inputs["input_ids"], []
    with torch.no_grad():
        for _ in range(limit):
            logits = loaded.model(input_ids=ids, pixel_values=inputs["pixel_values"]).logits
            made.append(int(logits[0, -1].argmax()))
            if made[-1] == loaded.processor.tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, torch.tensor([[made[-1]]])], dim=1)
    return made


def test_captions_equal_greedy_decoding_by_hand(captioner: TransformersCaptioner) -> None:
    tokenizer = captioner._loaded.processor.tokenizer
    captions = captioner.caption(PICTURES)
    for image, caption in zip(PICTURES, captions, strict=True):
        made = greedy_reference(captioner, image, limit=12)
        ended = made[-1] == tokenizer.eos_token_id
        text = tokenizer.decode(made, skip_special_tokens=True).strip()
        if not text:
            assert caption.failure == "empty generation"
            continue
        assert (caption.text, caption.failure) == (text, None)
        assert caption.num_tokens == len(made) - ended
        assert caption.finish_reason == ("stop" if ended else "length")
    assert len({caption.text for caption in captions}) > 3


@pytest.mark.parametrize("changes", [{}, {"do_sample": True, "top_p": 0.9, "temperature": 1.5}])
def test_a_batch_gives_what_single_images_give(llava: Path, changes: dict[str, Any]) -> None:
    captioner = open_transformers(captioner_params(llava, **changes))
    single = [caption for image in PICTURES for caption in captioner.caption([image])]
    assert captioner.caption(PICTURES) == single
    assert captioner.caption(PICTURES[::-1]) == single[::-1]
    assert captioner.caption([]) == []


def test_sampling_depends_on_the_seed(llava: Path, captioner: TransformersCaptioner) -> None:
    texts = [
        tuple(caption.text for caption in open_transformers(captioner_params(llava, **changes)).caption(PICTURES))
        for changes in ({"do_sample": True}, {"do_sample": True}, {"do_sample": True, "seed": 1})
    ]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0] != tuple(caption.text for caption in captioner.caption(PICTURES))


def test_instructblip_reads_a_plain_prompt(tmp_path: Path) -> None:
    captioner = open_transformers(captioner_params(build_tiny_instructblip(tmp_path), template="{prompt}"))
    captions = captioner.caption(PICTURES[:4])
    assert captions == [caption for image in PICTURES[:4] for caption in captioner.caption([image])]
    assert len({caption.text for caption in captions}) > 1
    assert all(0 < caption.num_tokens <= 12 for caption in captions if caption.failure is None)


def test_prompts_of_unequal_length_in_a_batch(tmp_path: Path) -> None:
    captioner = open_transformers(captioner_params(build_tiny_llava_next(tmp_path)))
    wide, square = Image.new("RGB", (64, 32), "red"), Image.new("RGB", (60, 60), "blue")
    images = [wide, square, *PICTURES[:2]]
    lengths = [captioner.prompt_length(image.size) for image in images]
    ids = [transformers_backend._process(captioner._loaded, [image], "long")["input_ids"] for image in images]
    image_id = captioner._loaded.model.config.image_token_id
    assert lengths == [int((each == image_id).sum()) for each in ids]
    assert len(set(lengths)) > 1
    single = [caption for image in images for caption in captioner.caption([image])]
    assert captioner.caption(images) == single
    assert captioner.caption(images, prepared=captioner.prepare(images, "long")) == single
    assert len({caption.text for caption in single}) > 1


def test_the_chat_template_of_the_checkpoint_is_used_where_there_is_no_template(tmp_path: Path) -> None:
    folder = build_tiny_llava(tmp_path, chat_template=CHAT_TEMPLATE)
    captioner = open_transformers(captioner_params(folder, template=None))
    assert any(caption.text for caption in captioner.caption(PICTURES))
    assert captioner._loaded.prompts["long"] == "<s>user: <image>Describe the image in detail assistant:"
    ids = transformers_backend._process(captioner._loaded, PICTURES[:1], "long")["input_ids"][0].tolist()
    assert ids.count(captioner._loaded.processor.tokenizer.bos_token_id) == 1


def test_no_template_at_all_is_an_error_that_shows_one(llava: Path) -> None:
    with pytest.raises(ModelError, match=r"no chat template.*USER: <image>"):
        open_transformers(captioner_params(llava, template=None)).caption(PICTURES[:1])


def test_a_template_without_an_image_is_refused(llava: Path) -> None:
    with pytest.raises(ModelError, match="`template` holds <image>"):
        open_transformers(captioner_params(llava, template="USER: {prompt} ASSISTANT:")).caption(PICTURES[:1])


def test_an_empty_generation_is_a_failure(llava: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llava, tmp_path / "silent")
    config = json.loads((folder / "generation_config.json").read_text())
    config["eos_token_id"] = list(range(40))  # whatever comes first ends the text
    (folder / "generation_config.json").write_text(json.dumps(config))
    caption = open_transformers(captioner_params(folder)).caption(PICTURES[:1])[0]
    assert (caption.text, caption.finish_reason, caption.failure) == ("", "error", "empty generation")


def test_special_tokens_are_no_text(captioner: TransformersCaptioner) -> None:
    tokenizer = captioner._loaded.processor.tokenizer
    tokens = ["<image>", "a", "<image>", "star", "<pad>", "</s>", "star"]
    caption = captioner._read(tokenizer.convert_tokens_to_ids(tokens))
    assert (caption.text, caption.num_tokens, caption.finish_reason) == ("a star", 5, "stop")


def test_an_image_that_the_processor_refuses_is_recorded_alone(captioner: TransformersCaptioner) -> None:
    captions = captioner.caption([PICTURES[0], Image.new("RGB", (0, 5)), PICTURES[2]])
    assert captions[1].failure is not None
    assert captions[1].failure.startswith("processor: ")
    assert captions[::2] == captioner.caption([PICTURES[0], PICTURES[2]])


def limit_memory(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Let the GPU's memory end beyond `most` images; returns the list of batch sizes that were tried."""
    tried, generate = [], transformers_backend._generate

    def generate_within(loaded: Any, inputs: Any, kind: str, samplers: list[Any]) -> list[list[int]]:
        tried.append(len(inputs["input_ids"]))
        if tried[-1] > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return generate(loaded, inputs, kind, samplers)

    monkeypatch.setattr(transformers_backend, "_generate", generate_within)
    return tried


def test_full_gpu_memory_halves_the_batch(llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captioner = open_transformers(captioner_params(llava))
    expected = captioner.caption(PICTURES)
    tried = limit_memory(monkeypatch, most=2)
    assert captioner.caption(PICTURES) == expected
    assert tried == [9, 4, 2, 2, 2, 2, 1]
    tried.clear()
    assert captioner.caption(PICTURES[:4]) == expected[:4]
    assert tried == [2, 2]


def test_memory_too_small_for_one_image_stops(llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captioner = open_transformers(captioner_params(llava))
    limit_memory(monkeypatch, most=0)
    with pytest.raises(ModelError, match="single image"):
        captioner.caption(PICTURES[:2])


def test_padding_falls_back_to_the_end_token(captioner: TransformersCaptioner) -> None:
    class Tokenizer:
        pad_token_id: int | None = 10_000
        eos_token_id, eos_token = 2, "</s>"
        pad_token, padding_side = "<pad>", "right"

    tokenizer = Tokenizer()
    transformers_backend._prepare_padding(tokenizer, captioner._loaded.model)
    assert (tokenizer.pad_token, tokenizer.padding_side) == ("</s>", "left")
    tokenizer.eos_token_id = 20_000
    with pytest.raises(ModelError, match=r"pad id 10000 .* embeddings"):
        transformers_backend._prepare_padding(tokenizer, captioner._loaded.model)


def test_a_checkpoint_of_another_class_is_named(llava: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llava, tmp_path / "vit")
    (folder / "config.json").write_text(json.dumps({"model_type": "vit", "architectures": ["ViTModel"]}))
    with pytest.raises(ModelError, match="image-text-to-text"):
        open_transformers(captioner_params(folder)).caption(PICTURES[:1])


def test_damaged_weights_are_named(llava: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llava, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_transformers(captioner_params(folder)).caption(PICTURES[:1])
