"""Quality of captions from real shards and sidecars: counts by hand, similarity against a slow reference."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lotlip.captioning.captioner import Caption
from lotlip.captioning.quality import Written
from lotlip.captioning.tables import make_row, write_captions
from lotlip.data.manifest import Manifest, Shard, describe_file, read_manifest, write_manifest
from lotlip.data.tables import Row, write_rows
from lotlip.errors import DataError, ModelError
from lotlip.evaluation.agreement import ObjectNames
from lotlip.evaluation.caption_quality import measure_quality
from lotlip.evaluation.encoders import Encoder
from lotlip.evaluation.similarity import caption_similarity, open_similarity
from lotlip.params import Similarity
from tests.captioning.samples import MAX_PIXELS, encode_png, write_images

NAMES = ObjectNames([["dog"], ["cat"], ["bus"]])
COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250), "grey": (99, 99, 99)}
TEXTS = {
    "one": ["A dog. A cat", "A bus. A bus. A bus. A bus. A dog", "A dog. A cat", None],
    "two": ["A dog", "A bus", "A cow", "A cat"],
}


class ByColour:
    """An encoder that knows the mean colour of an image and the first word of a text."""

    def images(self, images: Any) -> torch.Tensor:
        means = torch.tensor([[float(band) for band in image.resize((1, 1)).getpixel((0, 0))] for image in images])
        return torch.nn.functional.normalize(means, dim=1)

    def texts(self, texts: Any) -> torch.Tensor:
        rows = torch.tensor([[float(text.count(letter)) + 0.1 for letter in "abc"] for text in texts])
        return torch.nn.functional.normalize(rows, dim=1)


def image_tables(folder: Path, images: Manifest) -> Manifest:
    """The same images with the table that a download writes beside each tar."""
    shards = []
    for shard in images.shards:
        rows = [Row(f"a-0-{i}", None, "success", None, "raw", 40, 40, "0", "0") for i in range(shard.num_samples)]
        write_rows(folder / f"{shard.name}.parquet", rows)
        shards.append(replace(shard, files={**shard.files, "table": describe_file(folder, f"{shard.name}.parquet")}))
    return write_manifest(folder, "images", shards)


def captions(folder: Path, images: Manifest, name: str, reasons: dict[int, tuple[str, ...]]) -> Manifest:
    folder.mkdir(parents=True)
    rows = []
    for i, text in enumerate(TEXTS[name]):
        caption = Caption("", 0, "error", "empty generation") if text is None else Caption(text, 4 + i, "stop")
        rows.append(make_row(f"a-0-{i}", "long", Written(caption, reasons.get(i, ())), name * 4))
        rows.append(make_row(f"a-0-{i}", "short", Written(Caption("A bus", 2, "stop"), ()), name * 4))
    write_captions(folder / "a-00000.parquet", rows)
    of = images.shards[0].files["tar"].sha256
    return write_manifest(
        folder, "captions", [Shard("a-00000", len(rows), {"table": describe_file(folder, "a-00000.parquet")}, of)]
    )


@pytest.fixture
def data(tmp_path: Path) -> tuple[Manifest, dict[str, Manifest]]:
    pictures = [encode_png(Image.new("RGB", (40, 40), colour)) for colour in COLOURS.values()]
    images = image_tables(tmp_path / "images", write_images(tmp_path / "images", "a", [pictures]))
    both = {"one": captions(tmp_path / "one", images, "one", {1: ("repetition",)})}
    both["two"] = captions(tmp_path / "two", images, "two", {})
    return images, both


def measure(data: tuple[Manifest, dict[str, Manifest]], out: Path, **changes: Any) -> dict[str, Any]:
    images, both = data
    options = {"names": NAMES, "encoder": ByColour(), "max_images": 10, "max_pixels": MAX_PIXELS, **changes}
    return measure_quality([images], options.pop("captions", both), out=out, **options)


def test_counts_by_hand(data: tuple[Manifest, dict[str, Manifest]], tmp_path: Path) -> None:
    summary = measure(data, tmp_path / "quality")
    assert summary["images"] == 4
    one, two = summary["captioners"]["one"], summary["captioners"]["two"]
    assert (one["texts"], two["texts"]) == (3, 4)
    assert (one["tokens"], one["sub_captions"], one["objects"]) == (5.0, 3.0, 2.0)  # (4+5+6)/3, (2+5+2)/3, 6/3
    assert one["reasons"] == {"repetition": round(1 / 3, 6)}
    assert one["duplicates"] == round(1 / 3, 6)
    assert two["objects"] == 0.75
    assert one["unsupported"] == round(4 / 6, 6)  # cat | dog | dog, cat
    assert two["unsupported"] == 0.0  # the cat of the fourth image, which has no other text, does not count
    # Two cannot outvote each other.
    assert (one["coverage"], two["coverage"], summary["common_objects"]) == (None, None, None)
    assert summary["agreement"] == {"one-two": round((0.5 + 0.5 + 0.0) / 3, 6)}


def test_three_captioners_have_a_majority(data: tuple[Manifest, dict[str, Manifest]], tmp_path: Path) -> None:
    images, both = data
    both["three"] = captions(tmp_path / "three", images, "two", {})
    summary = measure((images, both), tmp_path / "quality")
    # In the first three images, where all wrote: dog; bus; nothing ("one" names dog and cat).
    assert summary["common_objects"] == round(2 / 3, 6)
    assert [summary["captioners"][name]["coverage"] for name in ("one", "two", "three")] == [1.0, 1.0, 1.0]
    both["three"] = captions(tmp_path / "four", images, "one", {})
    summary = measure((images, both), tmp_path / "quality")
    # Dog and cat; bus and dog; dog and cat. "two" names one of each of the first pairs.
    assert summary["common_objects"] == 2.0
    assert summary["captioners"]["two"]["coverage"] == round(2 / 6, 6)


def test_a_damaged_sidecar_is_refused(data: tuple[Manifest, dict[str, Manifest]], tmp_path: Path) -> None:
    shutil.copy(tmp_path / "one/a-00000.parquet", tmp_path / "two/a-00000.parquet")
    with pytest.raises(DataError, match="sha256"):
        measure(data, tmp_path / "quality")
    assert not (tmp_path / "quality").exists()


def test_rows_lie_beside_the_shard(data: tuple[Manifest, dict[str, Manifest]], tmp_path: Path) -> None:
    measure(data, tmp_path / "quality")
    manifest = read_manifest(tmp_path / "quality", "quality")
    (shard,) = manifest.shards
    rows = pq.read_table(manifest.path(shard, "table")).to_pylist()
    assert (shard.num_samples, shard.of) == (7, data[0].shards[0].files["tar"].sha256)
    assert [(row["key"], row["captioner"]) for row in rows][:3] == [
        ("a-0-0", "one"),
        ("a-0-0", "two"),
        ("a-0-1", "one"),
    ]
    assert (rows[0]["objects"], rows[0]["unsupported"], rows[0]["support"]) == ("cat, dog", "cat", 0.5)


def test_one_captioner_alone_has_nothing_to_agree_with(
    data: tuple[Manifest, dict[str, Manifest]], tmp_path: Path
) -> None:
    summary = measure(data, tmp_path / "quality", captions={"one": data[1]["one"]})
    assert summary["agreement"] == {}
    assert summary["captioners"]["one"]["unsupported"] is None
    assert summary["captioners"]["one"]["coverage"] is None


def test_a_sample_of_images_is_the_same_each_time(data: tuple[Manifest, dict[str, Manifest]], tmp_path: Path) -> None:
    first = measure(data, tmp_path / "first", max_images=2)
    assert first["images"] == 2
    assert first == measure(data, tmp_path / "second", max_images=2)
    files = [(tmp_path / name / "a-00000.parquet").read_bytes() for name in ("first", "second")]
    assert files[0] == files[1]


def test_captions_of_other_images_are_refused(data: tuple[Manifest, dict[str, Manifest]], tmp_path: Path) -> None:
    pictures = [encode_png(Image.new("RGB", (9, 9)))] * 4
    other = image_tables(tmp_path / "other", write_images(tmp_path / "other", "a", [pictures]))
    with pytest.raises(DataError, match="belong to other images"):
        measure((other, data[1]), tmp_path / "quality")


def test_similarity_is_the_mean_over_sub_captions() -> None:
    encoder = ByColour()
    pictures = encoder.images([Image.new("RGB", (4, 4), colour) for colour in COLOURS.values()][:3])
    texts = [["aab. b", "c"], ["b. ccc. ab"], [""]]
    own, of_next = caption_similarity(encoder, pictures, texts)
    for shift, found in ((0, own), (1, of_next)):
        for i, of_image in enumerate(texts):
            for j, text in enumerate(of_image):
                pieces = [piece for piece in text.split(". ") if piece]
                cosines = [float(encoder.texts([piece])[0] @ pictures[(i + shift) % 3]) for piece in pieces]
                assert found[i][j] == pytest.approx(sum(cosines) / len(cosines) if cosines else 0.0, abs=1e-6)
    assert caption_similarity(encoder, pictures[:1], [["a", ""]])[1] == [[None, None]]


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP with the sample's vocabulary, saved with its processor."""
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = PreTrainedTokenizerFast.from_pretrained("lotlip/sample/weights/tokenizer", model_max_length=16)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **small,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "eos_token_id": tokenizer.sep_token_id,
    }
    vision = {**small, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).save_pretrained(folder)
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder


def test_a_clip_folder_gives_its_own_features(tiny_clip: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    encoder = open_similarity(Similarity(checkpoint=str(tiny_clip), batch_size=2, device="cpu"))
    texts = ["a red circle", "a star", "a very long text of many more tokens than the sixteen that the model takes in"]
    images = [Image.new("RGB", (40, 50), colour) for colour in COLOURS.values()][:3]
    model, processor = CLIPModel.from_pretrained(tiny_clip).eval(), CLIPProcessor.from_pretrained(tiny_clip)
    with torch.no_grad():
        inputs = processor(text=texts, images=images, padding=True, truncation=True, return_tensors="pt")
        whole = model(**inputs)
    torch.testing.assert_close(encoder.texts(texts), whole.text_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.images(images), whole.image_embeds, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("openai/clip-vit-base-patch16", "needs its commit"),
        ("lotlip/sample/weights/vit", "of type 'vit'; expected a model"),
    ],
)
def test_what_is_no_such_model_is_named(checkpoint: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        open_similarity(Similarity(checkpoint=checkpoint))


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    shutil.copy("README.md", tmp_path)
    with pytest.raises(ModelError, match=r"quality\.similarity: .* holds no model \(no config\.json\)"):
        open_similarity(Similarity(checkpoint=str(tmp_path)))


def test_the_test_encoder_is_an_encoder() -> None:
    encoder: Encoder = ByColour()
    assert encoder.texts(["abc"]).norm() == pytest.approx(1.0)
