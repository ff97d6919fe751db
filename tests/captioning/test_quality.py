"""Each rule on texts that break it and on texts that come near."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lotlip.captioning.captioner import EMPTY, Caption, failed
from lotlip.captioning.quality import find_reasons, has_loop, write_checked

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
        ("I can’t help with that.", "stop", ("refusal",)),
        ("I’m sorry. There is nothing.", "stop", ("refusal",)),
        ("We do not have cars here, says the sign.", "stop", ()),
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


@given(st.lists(st.sampled_from("abc"), max_size=60), st.lists(st.sampled_from("abcd"), max_size=13), st.integers(2, 5))
def test_loops_are_found_as_by_counting_every_place(words: list[str], phrase: list[str], times: int) -> None:
    said = words[:20] + phrase * times + words[20:]
    slow = False
    for size in range(1, min(12, len(said) // 4) + 1):
        same = 0
        for i in range(size, len(said)):
            same = same + 1 if said[i] == said[i - size] else 0
            slow = slow or same >= 3 * size
    assert has_loop(said) == slow


class Drawing:
    """A captioner whose attempts are given: `texts[attempt]` lists those of the images that are asked for."""

    identity, kinds = "0" * 16, ("long",)

    def __init__(self, texts: list[list[str]], retries: bool = True) -> None:
        self.texts, self.retries = texts, retries
        self.asked: list[int] = []

    def prompt_length(self, size: tuple[int, int]) -> int:
        return 0

    def prepare(self, images: Any, kind: str) -> None:
        return None

    def caption(self, images: Any, kind: Any = "long", attempt: int = 0, prepared: Any = None) -> list[Caption]:
        self.asked.append(len(images))
        return [Caption(text, 3, "stop") if text else failed(EMPTY) for text in self.texts[attempt]]


def test_one_more_draw_for_what_it_may_mend() -> None:
    first = ["A dog.", "a a a a", "", "I cannot see the image.", "一只狗在草地上", "b b b b"]
    second = ["A cat.", "A hen.", "I cannot see it. c c c c", ""]
    images = [Image.new("RGB", (4, 4))] * 6
    captioner = Drawing([first, second])
    written = write_checked(captioner, images, "long")
    assert captioner.asked == [6, 4]
    assert [each.caption.text for each in written] == [
        "A dog.", "A cat.", "A hen.", "I cannot see the image.", "一只狗在草地上", "b b b b",
    ]  # fmt: skip
    assert [each.attempts for each in written] == [1, 2, 2, 2, 1, 2]
    assert written[3].reasons == ("refusal",)
    assert [each.attempts for each in write_checked(Drawing([first], retries=False), images, "long")] == [1] * 6
