"""Models of others behind the one interface, against what transformers makes of one text and image at a time."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from lotlip.errors import DataError, ModelError
from lotlip.evaluation.encoders import BatchEncoder, LotlipEncoder, TextCounts
from lotlip.evaluation.evaluate import evaluate_model, evaluate_on
from lotlip.evaluation.opening import open_encoder
from lotlip.evaluation.sets import read_evalset
from lotlip.model.convert.command import convert
from lotlip.model.flops import text_flops
from lotlip.text.tokenizer import SPECIAL_TOKENS
from tests.evaluation.test_evaluate_model import write_set
from tests.evaluation.tiny_foreign import save_foreign, save_long_clip, tokenizer
from tests.evaluation.tiny_model import save_tiny_model

LIMITS = {"clip": 16, "siglip": 12, "siglip2": 12, "align": 20}
KINDS = tuple(LIMITS)
TEXTS = [
    "a big blue heart on the left and a small red star right of it, over a green ring and two more things",
    "A Red Circle.",
    "ring",
    "a star on the left of a small green ring",
]
OFFICIAL = Path(__file__).parents[1] / "golden/official_tiny"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_foreign(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_long_clip(tmp_path_factory.mktemp("longclip") / "released")


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(3)
    sizes = ((40, 50), (64, 32), (33, 90), (32, 32), (120, 40))
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def logits_one_by_one(folder: Path, kind: str, images: list[Image.Image]) -> torch.Tensor:
    """transformers' own `logits_per_image` [N, T] for each pair alone, tokens as each model's documentation says."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    words = tokenizer(kind)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    padding = "max_length" if kind.startswith("siglip") else False
    rows = []
    for image in images:
        pixels = processor(images=image, return_tensors="pt")
        row = []
        for text in TEXTS:
            given = text.lower() if kind == "siglip2" else text  # its tokenizer does so itself only once it is saved
            ids = words(given, padding=padding, truncation=True, max_length=LIMITS[kind], return_tensors="pt")
            with torch.no_grad():
                row.append(model(input_ids=ids["input_ids"], **pixels).logits_per_image[0, 0])
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_the_models_own_logits(kind: str, folders: dict[str, Path]) -> None:
    encoder = open_encoder(folders[kind], batch_size=3, device="cpu")
    images = pictures()
    text, image = encoder.texts(TEXTS), encoder.images(images)
    assert text.dtype == image.dtype == torch.float32
    torch.testing.assert_close(text.norm(dim=1), torch.ones(len(TEXTS)))
    torch.testing.assert_close(image.norm(dim=1), torch.ones(len(images)))
    expected = logits_one_by_one(folders[kind], kind, images)
    assert expected.std() > 0.01, "a model that tells texts and images apart"
    scores = image @ text.T
    scale = 1 / encoder.model.temperature if kind == "align" else encoder.model.logit_scale.exp()
    scores = scores * scale
    if kind.startswith("siglip"):
        scores = scores + encoder.model.logit_bias
    torch.testing.assert_close(scores, expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_changes_nothing_and_files_are_read_as_images(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    encoder = open_encoder(folders[kind], batch_size=2, device="cpu")
    alone = torch.cat([encoder.texts([text]) for text in TEXTS])
    torch.testing.assert_close(encoder.texts(TEXTS), alone, atol=2e-6, rtol=0)
    files = [tmp_path / f"{i}.png" for i in range(5)]
    for file, picture in zip(files, pictures(), strict=True):
        picture.save(file)
    alone = torch.cat([encoder.images([file]) for file in files])
    torch.testing.assert_close(encoder.images(pictures()), alone, atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_truncation_is_counted_at_the_models_own_limit(kind: str, folders: dict[str, Path]) -> None:
    """Saved tokenizers say 1e30; what the model can take is in its positions."""
    encoder = open_encoder(folders[kind], batch_size=2, device="cpu")
    encoder.texts(TEXTS)
    words, limit = tokenizer(kind), LIMITS[kind]
    whole = [len(ids) for ids in words(TEXTS)["input_ids"]]
    special = 0 if kind == "siglip2" else 2
    assert max(whole) > 20
    assert encoder.counts == TextCounts(
        lengths=[min(n, limit) for n in whole],
        num_truncated=sum(n > limit for n in whole),
        num_tokens=sum(n - special for n in whole),
        num_lost=sum(max(0, n - limit) for n in whole),
    )


def test_a_converted_long_clip_takes_248_tokens(long_clip: Path) -> None:
    encoder = open_encoder(long_clip, batch_size=2, device="cpu")
    texts = ["a b c " * 100, "a b c " * 82, "d e"]
    embedded = encoder.texts(texts)
    # Each letter is a token; 300 + 2 and 246 + 2 ids.
    assert encoder.counts == TextCounts(lengths=[248, 248, 4], num_truncated=1, num_tokens=300 + 246 + 2, num_lost=54)
    torch.testing.assert_close(embedded[0], embedded[1], atol=1e-6, rtol=0)  # the same once cut
    model = transformers.CLIPModel.from_pretrained(long_clip).eval()
    words = transformers.AutoTokenizer.from_pretrained(long_clip)
    images = [Image.new("RGB", (20, 16), colour) for colour in ("red", "blue")]
    pixels = transformers.AutoImageProcessor.from_pretrained(long_clip)(images=images, return_tensors="pt")
    with torch.no_grad():
        whole = model(**words(texts, padding=True, truncation=True, return_tensors="pt"), **pixels)
    scores = encoder.images(images) @ embedded.T * model.logit_scale.exp()
    torch.testing.assert_close(scores, whole.logits_per_image, atol=1e-4, rtol=1e-5)


def test_a_converted_lotlip_without_and_with_a_tokenizer(tmp_path: Path) -> None:
    weights, reference = OFFICIAL / "official_state_dict.safetensors", load_file(OFFICIAL / "reference.safetensors")
    convert(weights, tmp_path / "bare", OFFICIAL / "config.json")
    with pytest.raises(ModelError, match="convert again with it"):
        open_encoder(tmp_path / "bare", 4, "cpu")
    words = [*SPECIAL_TOKENS, *(f"w{i}" for i in range(1200 - len(SPECIAL_TOKENS)))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    convert(weights, tmp_path / "out", OFFICIAL / "config.json", str(tmp_path))
    encoder = open_encoder(tmp_path / "out", 2, "cpu")
    with torch.no_grad():
        found = encoder._image_features({"pixel_values": reference["image"]})
    torch.testing.assert_close(found, reference["image_features"], atol=1e-5, rtol=0)
    encoder.texts(["w5 w6", "w7 " * 60])
    # [CLS], two corners, [SEP]; at most 48.
    assert encoder.counts == TextCounts(lengths=[6, 48], num_truncated=1, num_tokens=62, num_lost=16)


@pytest.mark.parametrize("texts", ["short", "classes"])
def test_a_foreign_model_is_evaluated_as_ours(texts: str, folders: dict[str, Path], tmp_path: Path) -> None:
    evalset = read_evalset(write_set(tmp_path / "set", texts))
    metrics = evaluate_model(folders["clip"], tmp_path / "set", 4, "cpu")
    assert metrics == evaluate_model(str(folders["clip"]), tmp_path / "set", 64, "cpu")
    prompts = evalset.texts or [one.format(name) for name in evalset.classes for one in evalset.templates]
    lengths = [min(16, len(ids)) for ids in tokenizer("clip")(list(prompts))["input_ids"]]
    assert metrics["tokens_per_text"] == pytest.approx(sum(lengths) / len(lengths), abs=1e-6)
    assert "text_flops_per_text" not in metrics
    if texts == "short":
        expected = open_encoder(folders["clip"], 64, "cpu")
        scores = expected.images(evalset.images) @ expected.texts(evalset.texts).T
        hits = [bool(scores[i].argmax() // 5 == i) for i in range(7)]
        assert metrics["i2t_r1"] == pytest.approx(100 * sum(hits) / 7, abs=1e-5)


def test_the_work_of_our_text_tower_is_reported(tmp_path: Path) -> None:
    encoder = open_encoder(save_tiny_model(tmp_path / "tiny"), 4, "cpu")
    assert isinstance(encoder, LotlipEncoder)
    for kind, given in (("short", "short"), ("long", "reference")):
        evalset = read_evalset(write_set(tmp_path / kind, given))
        metrics = evaluate_on(encoder, evalset)
        mask = encoder.processor(text=list(evalset.texts))["attention_mask"]
        lengths = mask.sum(dim=1).tolist()
        assert metrics["tokens_per_text"] == pytest.approx(sum(lengths) / len(lengths), abs=1e-6)
        assert metrics["text_flops_per_text"] == round(text_flops(encoder.model.config, lengths) / len(lengths))
        assert isinstance(metrics["text_flops_per_text"], int)
    assert metrics["tokens_per_text"] == 24, "every long text fills the limit"


def test_siglip_gets_no_mask_and_lower_case(folders: dict[str, Path], tmp_path: Path) -> None:
    """Its second version is often saved with a tokenizer that leaves capitals: then ids of a text would differ."""
    shutil.copytree(folders["siglip"], tmp_path / "siglip")
    record = json.loads((tmp_path / "siglip/tokenizer.json").read_text())
    record["normalizer"]["lowercase"] = False
    (tmp_path / "siglip/tokenizer.json").write_text(json.dumps(record))
    encoder = open_encoder(tmp_path / "siglip", 4, "cpu")
    torch.testing.assert_close(encoder.texts(["A RED CIRCLE"]), encoder.texts(["a red circle"]))
    assert list(encoder._pad([[2, 5, 3]])) == ["input_ids"]


def test_siglips_own_tokenizer(folders: dict[str, Path], tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path / "siglip"
    shutil.copytree(folders["siglip"], folder)
    words = sorted({word for text in TEXTS for word in text.lower().replace(".", "").replace(",", "").split()})
    sentences = [f"a {one} {other} on the {words[i % 7]}" for i, one in enumerate(words) for other in words]
    ids = {"pad_id": -1, "bos_id": -1, "eos_id": 1, "unk_id": 2, "control_symbols": ["<zero>"]}
    size = {"vocab_size": 100, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_prefix=str(folder / "spiece"), **ids, **size
    )
    (folder / "tokenizer.json").unlink()
    settings = {"tokenizer_class": "SiglipTokenizer", "model_max_length": 64, "model_input_names": ["input_ids"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    encoder = open_encoder(folder, 4, "cpu")
    model = transformers.SiglipModel.from_pretrained(folder).eval()
    own = transformers.SiglipTokenizer.from_pretrained(folder)
    inputs = own(TEXTS, padding="max_length", truncation=True, max_length=12, return_tensors="pt")
    with torch.no_grad():
        expected = model.get_text_features(inputs["input_ids"]).pooler_output
    torch.testing.assert_close(encoder.texts(TEXTS), torch.nn.functional.normalize(expected, dim=-1))


def test_weights_of_tensors_alone_may_be_bin(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["clip"], tmp_path / "clip")
    weights = load_file(tmp_path / "clip/model.safetensors")
    (tmp_path / "clip/model.safetensors").unlink()
    torch.save(weights, tmp_path / "clip/pytorch_model.bin")
    same = open_encoder(tmp_path / "clip", 4, "cpu").texts(TEXTS)
    assert torch.equal(same, open_encoder(folders["clip"], 4, "cpu").texts(TEXTS))
    torch.save({**weights, "evil": Evil(tmp_path / "evil")}, tmp_path / "clip/pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be opened"):
        open_encoder(tmp_path / "clip", 4, "cpu")
    assert not (tmp_path / "evil").exists()


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def drop(*names: str) -> Any:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def set_in(file: str, **values: Any) -> Any:
    def change(folder: Path) -> None:
        record = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**record, **values}))

    return change


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def with_more_words(folder: Path) -> None:
    words = tokenizer("clip")
    words.add_tokens(["another"])
    words.save_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("config.json"), r"broken holds no model \(no config\.json\): give the folder that training"),
        (lambda folder: (folder / "config.json").write_text("{"), r"broken/config\.json is no JSON object"),
        (set_in("config.json", model_type="clip_vision_model"), r"type 'clip_vision_model'.*A tower alone"),
        (set_in("config.json", model_type="bert"), "type 'bert'; expected a model of images and texts"),
        (set_in("config.json", model_type="blip9000"), "type 'blip9000'"),
        (drop("model.safetensors"), r"cannot be opened \(.*model\.safetensors.*download or convert it again"),
        (without_a_weight, r"lacks 1 weights \(text_projection\.weight\)"),
        (drop("tokenizer.json", "tokenizer_config.json"), r"has no tokenizer .*lotlip convert"),
        (set_in("preprocessor_config.json", crop_size={"height": 48, "width": 48}), r"own settings make \(.*48"),
        (drop("preprocessor_config.json"), r"has no image settings \(preprocessor_config\.json\)"),
        (with_more_words, r"knows \d+ ids: give it the tokenizer"),
    ],
)
def test_what_is_missing_is_named(change: Any, message: str, folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["clip"], tmp_path / "broken")
    change(tmp_path / "broken")
    with pytest.raises(ModelError, match=message):
        open_encoder(tmp_path / "broken", 4, "cpu")


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder here, and revision 'main' belongs to a hub id"):
        open_encoder(tmp_path, 4, "cpu", "main")


@pytest.mark.parametrize("revision", [None, "main", "57c2164"])
def test_a_hub_id_needs_its_commit(revision: str | None) -> None:
    with pytest.raises(
        ModelError, match=r"no folder here: correct.*commit, 40 digits, as revision \(`--revision`\), which is"
    ):
        open_encoder("openai/clip-vit-base-patch16", 4, "cpu", revision)


def test_a_model_of_the_project_is_trained_by_its_stage(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no folder here: run `dvc repro train@lotlip`, or correct the path"):
        open_encoder(tmp_path / "models" / "lotlip", 4, "cpu")


def test_a_hub_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"nobody/nothing cannot be opened .*check the id, the commit and the network"):
        open_encoder("nobody/nothing", 4, "cpu", "0" * 40)


@pytest.mark.parametrize("kind", ["ours", "clip"])
def test_an_image_that_cannot_be_read_is_named(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "tiny") if kind == "ours" else folders[kind]
    encoder: BatchEncoder = open_encoder(folder, 4, "cpu")
    files = [tmp_path / f"{i}.png" for i in range(9)]
    for file in files:
        Image.new("RGB", (32, 32)).save(file)
    files[6].write_bytes(files[6].read_bytes()[:60])
    with pytest.raises(DataError, match=r"6\.png"):
        encoder.images(files)
    with pytest.raises(DataError, match=r"none\.png is missing"):
        encoder.images([*files[:6], tmp_path / "none.png"])
