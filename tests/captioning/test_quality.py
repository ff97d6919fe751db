"""Each rule on texts that break it and on texts that come near."""

import pytest

from lotlip.captioning.captioner import Caption, failed
from lotlip.captioning.quality import find_reasons, has_loop

GOOD = "The image shows a man. He cannot see the boat because of the fog. There is a dog. There is a cat. A tree."


@pytest.mark.parametrize(
    ("text", "finish", "reasons"),
    [
        (GOOD, "stop", ()),
        ("A red boat on a", "length", ("truncated",)),
        ("A red boat on a lake.", "length", ()),
        ('He said "no!" ', "length", ()),
        ("(so.)", "length", ()),
        ("一只猫。 a cat and other animals", "length", ("truncated",)),
        ("It ends. But", "length", ("truncated",)),
        ("a,", "length", ("truncated",)),
        ("a red red red red boat.", "stop", ("repetition",)),
        ("a red red red boat.", "stop", ()),
        ("and a tree " * 4, "stop", ("repetition",)),
        ("A dog. A cat. A dog. A cat. A dog. A dog.", "stop", ("repetition",)),
        ("A dog. A cat. A dog. A cow. A hen.", "stop", ()),
        ("I'm sorry, but I can't help with that.", "stop", ("refusal",)),
        ("I cannot describe this image.", "stop", ("refusal",)),
        ("As an AI language model, I do not have eyes.", "stop", ("refusal",)),
        ("The sign says that they are unable to park here.", "stop", ()),
        ("Sorry, I have no picture.", "stop", ("refusal",)),
        ("一只狗在草地上奔跑。", "stop", ("language",)),
        ("Ein Café mit Bäumen.", "stop", ()),
        ("I am unable to see it, I am unable to see it, I am unable to see it, I am unable to see it, I am", "length",
         ("truncated", "repetition", "refusal")),
    ],
)  # fmt: skip
def test_reasons(text: str, finish: str, reasons: tuple[str, ...]) -> None:
    assert find_reasons(Caption(text, 5, finish)) == reasons  # type: ignore[arg-type]


def test_a_failed_caption_has_its_failure_alone() -> None:
    assert find_reasons(failed("empty generation")) == ()


def test_loops_of_every_length_up_to_twelve_words() -> None:
    for size in range(1, 13):
        phrase = [f"w{i}" for i in range(size)]
        assert has_loop(["a", *phrase * 4, "b"])
        assert not has_loop(["a", *phrase * 3, *phrase[:-1], "b"])
    assert not has_loop([f"w{i}" for i in range(13)] * 4)
