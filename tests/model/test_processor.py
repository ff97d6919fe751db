"""The processor: shapes, the round trip, and equality with the evaluation transform."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import AutoProcessor

import lotlip
from lotlip.data.images import eval_transform
from lotlip.errors import DataError, ModelError, ShapeError
from lotlip.model.image_tower import ImageSettings
from lotlip.model.processor import LotlipProcessor
from lotlip.text.tokenizer import SPECIAL_TOKENS, LotlipTokenizer

SETTINGS = ImageSettings(16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


@pytest.fixture
def processor() -> LotlipProcessor:
    words = [*SPECIAL_TOKENS, "a", "red", "boat"]
    backend = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = BertPreTokenizer()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    return LotlipProcessor(LotlipTokenizer(backend, 2, 10), SETTINGS)


def test_texts_and_images(processor: LotlipProcessor, tmp_path: Path) -> None:
    image = Image.effect_noise((40, 24), 80).convert("RGB")
    image.save(tmp_path / "boat.png")
    inputs = processor(text=["a red boat", "boat"], images=[image, tmp_path / "boat.png"])
    assert inputs["input_ids"].tolist() == [[2, 8, 9, 5, 6, 7, 3], [2, 8, 9, 7, 3, 0, 0]]
    assert inputs["attention_mask"].tolist() == [[1] * 7, [1] * 5 + [0] * 2]
    expected = eval_transform(image, 16, SETTINGS.mean, SETTINGS.std)
    assert torch.equal(inputs["pixel_values"], torch.stack([expected, expected]))
    assert processor(text="a", padding="max_length")["input_ids"].shape == (1, 10)


def test_round_trip(processor: LotlipProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    loaded = lotlip.LotlipProcessor.from_pretrained(tmp_path)
    assert loaded.image_settings == SETTINGS
    assert torch.equal(loaded(text=["a boat"])["input_ids"], processor(text=["a boat"])["input_ids"])
    assert type(AutoProcessor.from_pretrained(tmp_path)) is LotlipProcessor


def test_errors_name_the_remedy(processor: LotlipProcessor, tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="at least one text"):
        processor()
    with pytest.raises(DataError, match=r"gone\.png is missing"):
        processor(images=[tmp_path / "gone.png"])
    (tmp_path / "bad.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"bad\.png"):
        processor(images=tmp_path / "bad.png")
    with pytest.raises(ModelError, match="folder of a trained model"):
        LotlipProcessor.from_pretrained(tmp_path)
