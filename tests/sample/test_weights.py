"""The sample's models as they are shipped: small, with cards that say what was measured."""

import json
from pathlib import Path

import pytest

WEIGHTS, CARDS = Path("lotlip/sample/weights"), Path("lotlip/sample/cards")
CAPTIONERS = ("instructblip", "llava", "sharegpt4v")


def test_the_captioners_are_small() -> None:
    sizes = {name: (WEIGHTS / name / "model.safetensors").stat().st_size for name in CAPTIONERS}
    assert sum(sizes.values()) < 10_000_000, sizes


@pytest.mark.parametrize("name", CAPTIONERS)
def test_cards_carry_the_measured_numbers(name: str) -> None:
    measured = json.loads((CARDS / f"{name}.json").read_text())
    assert measured["object_precision"] >= 0.8
    assert measured["object_recall"] >= 0.6
    card = (CARDS / f"{name}.md").read_text()
    for key in ("object_precision", "object_recall"):
        assert f"{measured[key]:.3f}" in card
    for key in ("mentions", "sub_captions", "tokens"):
        assert str(measured[key]) in card


def test_their_habits_differ() -> None:
    cards = {name: json.loads((CARDS / f"{name}.json").read_text()) for name in CAPTIONERS}
    assert cards["sharegpt4v"]["tokens"] > 1.5 * cards["llava"]["tokens"] > 1.5 * cards["instructblip"]["tokens"] * 0.9
    assert {name: round(card["hallucinating"], 1) for name, card in cards.items()} == {
        "instructblip": 0.5,
        "llava": 0.3,
        "sharegpt4v": 0.2,
    }
    assert "fill_accuracy" not in cards["instructblip"]
