"""Markup and languages in raw captions."""

import pytest

from lotlip.errors import ParamsError
from lotlip.validation.raw_texts import UNSURE, FindLanguages, has_markup, open_language_finder


@pytest.mark.parametrize(
    "text",
    [
        "<p>a dog</p>",
        "a dog<br>",
        "a dog<BR />",
        'see <a href="x.html" target=_blank>this</a>',
        "<h1>Dogs</h1>",
        "a <!-- comment --> dog",
        "Tom &amp; Jerry",
        "it&#39;s",
        "it&#x27;s",
        "caf&eacute;",
        "photo from https://example.org/dog.jpg",
        "dogs at www.example.org today",
    ],
)
def test_markup(text: str) -> None:
    assert has_markup(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a dog",
        "I <3 dogs",
        "x < y and z > w",
        "a <- b -> c",
        "1<2>0",
        "x<y and z>w",
        "Tom & Jerry; a film",
        "AT&T; the company",
        "black&white;",
        "R&D 50% #1",
        "the http protocol",
        "www. what?",
    ],
)
def test_no_markup(text: str) -> None:
    assert not has_markup(text)


@pytest.fixture(scope="module")
def find_english() -> FindLanguages:
    return open_language_finder(["en"])


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("A brown dog sleeps on the old sofa in the living room.", "en"),
        ("Ein brauner Hund schläft auf dem alten Sofa im Wohnzimmer.", "de"),
        ("Un chien brun dort sur le vieux canapé du salon.", "fr"),
        ("狗睡在客厅的旧沙发上", "zh"),
    ],
)
def test_languages(find_english: FindLanguages, text: str, language: str) -> None:
    [(found, english)] = find_english([text])
    assert found == language
    assert (english >= 0.001) == (language == "en")


@pytest.mark.parametrize("text", ["", "dog", "an iris", "Paris", "IMG_1234.jpg", "1."])
def test_a_word_or_two_are_not_called_foreign(find_english: FindLanguages, text: str) -> None:
    [(found, english)] = find_english([text])
    assert found == UNSURE
    assert english >= 0.001


def test_more_languages_may_be_allowed() -> None:
    german, english, both = (open_language_finder(codes) for codes in (["de"], ["en"], ["de", "en"]))
    text = ["Der Hund sleeps on the Sofa"]
    assert both(text)[0][1] == pytest.approx(german(text)[0][1] + english(text)[0][1])


def test_an_unknown_code_is_told() -> None:
    with pytest.raises(ParamsError, match=r"validate\.raw\.languages: english unknown; known are .*\ben\b"):
        open_language_finder(["english"])
