"""A saved model evaluated on written sets, against its own public interface used one item at a time."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lotlip import LotlipModel, LotlipProcessor
from lotlip.errors import DataError, ModelError
from lotlip.evaluation.evaluate import evaluate_model
from lotlip.evaluation.make_sets import scene_items, write_evalset
from lotlip.evaluation.opening import open_encoder
from lotlip.evaluation.retrieval import retrieval_metrics
from lotlip.evaluation.sets import read_evalset
from lotlip.params import ScenesEvalset
from lotlip.text.tokenizer import LotlipTokenizer
from tests.evaluation.tiny_model import save_tiny_model


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def write_set(folder: Path, texts: str, num_images: int = 7) -> Path:
    params = ScenesEvalset(kind="scenes", path=Path("x"), texts=texts, num_images=num_images, seed=3)  # type: ignore[arg-type]
    write_evalset(folder, texts, scene_items(params))
    return folder


@pytest.mark.parametrize("batch_size", [3, 64])
def test_retrieval_equals_one_by_one(model_folder: Path, tmp_path: Path, batch_size: int) -> None:
    evalset = read_evalset(write_set(tmp_path / "short", "short"))
    metrics = evaluate_model(model_folder, tmp_path / "short", batch_size, "cpu")

    model, processor = (
        LotlipModel.from_pretrained(model_folder).eval(),
        LotlipProcessor.from_pretrained(model_folder),
    )
    with torch.no_grad():
        texts = [model.get_text_features(**processor(text=[text]))[0] for text in evalset.texts]
        images = [
            model.get_image_features(processor(images=[Image.open(path)])["pixel_values"])[0] for path in evalset.images
        ]
    scores = torch.stack(images) @ torch.stack(texts).T
    i2t = [bool(scores[i].argmax() // 5 == i) for i in range(7)]
    t2i = [bool(scores[:, t].argmax() == t // 5) for t in range(35)]
    assert metrics["i2t_r1"] == pytest.approx(100 * sum(i2t) / 7, abs=1e-5)
    assert metrics["t2i_r1"] == pytest.approx(100 * sum(t2i) / 35, abs=1e-5)
    assert (metrics["images"], metrics["texts"], metrics["truncated_text_share"]) == (7, 35, 0)


def test_classification_equals_one_by_one(model_folder: Path, tmp_path: Path) -> None:
    evalset = read_evalset(write_set(tmp_path / "classes", "classes", 12))
    metrics = evaluate_model(model_folder, tmp_path / "classes", 5, "cpu")

    model, processor = (
        LotlipModel.from_pretrained(model_folder).eval(),
        LotlipProcessor.from_pretrained(model_folder),
    )
    with torch.no_grad():
        means = []
        for name in evalset.classes:
            prompts = [template.format(name) for template in evalset.templates]
            mean = model.get_text_features(**processor(text=prompts)).mean(0)
            means.append(mean / mean.norm())
        images = model.get_image_features(processor(images=list(evalset.images))["pixel_values"])
    order = (images @ torch.stack(means).T).argsort(dim=1, descending=True).tolist()
    top5 = sum(label in row[:5] for label, row in zip(evalset.labels, order, strict=True))
    assert metrics["top5"] == pytest.approx(100 * top5 / 12, abs=1e-5)
    assert (metrics["images"], metrics["classes"]) == (12, 64)


def test_texts_keep_their_order_when_sorted_by_length(model_folder: Path) -> None:
    texts = ["a red circle. " * 3, "star", "a big blue heart on the left", "ring", "two words"]
    encoder = open_encoder(model_folder, batch_size=2, device="cpu")
    together = encoder.texts(texts)
    alone = torch.cat([encoder.texts([text]) for text in texts])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together.norm(dim=1), torch.ones(5))


def test_a_model_of_tokens_is_scored_by_late_interaction(model_folder: Path, tmp_path: Path) -> None:
    model = LotlipModel.from_pretrained(model_folder)
    processor = LotlipProcessor.from_pretrained(model_folder)
    config = model.config
    config.num_corner_tokens, config.token_features = 0, True
    config.text_config.vocab_size -= 2
    torch.manual_seed(1)
    tokens = LotlipModel(config).eval()
    tokens.save_pretrained(tmp_path / "filip")
    plain = LotlipTokenizer.load(plain_vocabulary(model_folder, tmp_path), num_corner_tokens=0, token_limit=24)
    filip = LotlipProcessor(plain, processor.image_settings)
    filip.save_pretrained(tmp_path / "filip")
    evalset = read_evalset(write_set(tmp_path / "short", "short"))
    metrics = evaluate_model(tmp_path / "filip", tmp_path / "short", 4, "cpu")
    with torch.no_grad():
        text, keep = tokens.get_text_token_features(**filip(text=list(evalset.texts)))
        image = tokens.get_image_token_features(**filip(images=list(evalset.images)))
    expected = retrieval_metrics(image, text, torch.tensor(evalset.image_of_text), keep)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert 0 <= evaluate_model(tmp_path / "filip", write_set(tmp_path / "classes", "classes"), 4, "cpu")["top1"] <= 100


def plain_vocabulary(model_folder: Path, folder: Path) -> Path:
    """The model's vocabulary without its corners."""
    record = json.loads((model_folder / "tokenizer.json").read_text())
    record["added_tokens"] = [token for token in record["added_tokens"] if "Corner" not in token["content"]]
    record["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(record))
    return folder


def test_truncated_texts_are_counted(model_folder: Path, tmp_path: Path) -> None:
    # Long descriptions have 40 tokens and more, the model's limit is 24.
    metrics = evaluate_model(model_folder, write_set(tmp_path / "long", "reference"), 4, "cpu")
    assert metrics["truncated_text_share"] == 1
    assert 0.3 < metrics["truncated_token_share"] < 0.9


def test_missing_model_names_its_stage(tmp_path: Path) -> None:
    write_set(tmp_path / "short", "short", 2)
    with pytest.raises(ModelError, match="dvc repro train@lotlip"):
        evaluate_model(tmp_path / "models" / "lotlip", tmp_path / "short", 4, "cpu")


@pytest.mark.parametrize(
    ("folder", "advice"),
    [("models/lit", "run `dvc repro -f train@lit`, or convert or fetch"), ("lit", "convert or fetch")],
)
def test_damaged_model(model_folder: Path, tmp_path: Path, folder: str, advice: str) -> None:
    damaged = tmp_path / folder
    shutil.copytree(model_folder, damaged)
    (damaged / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=rf"cannot be opened \(.*\): {re.escape(advice)} it again"):
        open_encoder(damaged, 4, "cpu")


def test_model_without_some_weights_is_refused(model_folder: Path, tmp_path: Path) -> None:
    for file in model_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(model_folder / "model.safetensors")
    del weights["text_tower.projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights \(text_tower\.projection\.weight\)"):
        open_encoder(tmp_path, 4, "cpu")


def test_diverged_model_is_refused(model_folder: Path, tmp_path: Path) -> None:
    model = LotlipModel.from_pretrained(model_folder)
    model.text_tower.projection.weight.data.fill_(float("nan"))
    model.save_pretrained(tmp_path / "nan")
    LotlipProcessor.from_pretrained(model_folder).save_pretrained(tmp_path / "nan")
    with pytest.raises(ModelError, match="features of 8 of 8 texts are NaN"):
        evaluate_model(tmp_path / "nan", write_set(tmp_path / "short", "short"), 8, "cpu")


def test_unreadable_image_is_named(model_folder: Path, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "short", "short", 3)
    image = read_evalset(folder).images[1]
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(DataError, match=image.name):
        evaluate_model(model_folder, folder, 4, "cpu")
