"""Exercises made by rule: right, drawn alike, and about nothing that is held out."""

import random
import re
from fractions import Fraction

import pytest
from zoo_instruct import drills as made

# in metres, litres, grams and seconds; of a year and a month months
SIZES: dict[str, int | Fraction] = {
    "kilometer": 1000, "meter": 1, "centimeter": Fraction(1, 100), "millimeter": Fraction(1, 1000),
    "liter": 1, "milliliter": Fraction(1, 1000), "ton": 10**6, "kilogram": 1000, "gram": 1,
    "milligram": Fraction(1, 1000), "week": 604800, "day": 86400, "hour": 3600, "minute": 60,
    "second": 1, "year": 12, "month": 1, "yard": 36, "foot": 12, "feet": 12, "inch": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def drawn() -> list[tuple[str, str]]:
    return [(asked["content"], told["content"]) for asked, told in made.drills(3000, ())]


def size(text: str) -> Fraction:
    number, unit = text.split()
    found = [SIZES[name] for name in (unit, unit.removesuffix("s"), unit.removesuffix("es"))
             if name in SIZES]  # fmt: skip
    return Fraction(number) * found[0]


def test_drawn_alike_and_none_twice(drawn: list[tuple[str, str]]) -> None:
    assert made.drills(50, ()) == made.drills(50, ())
    assert made.drills(50, ()) != made.drills(50, (), seed=1)
    assert len({question for question, _ in drawn}) == 3000
    assert all(question and answer for question, answer in drawn)


def test_both_sides_of_a_conversion_are_equal(drawn: list[tuple[str, str]]) -> None:
    found = [answer for question, answer in drawn if re.match(r"Convert [\d.]+ .* to", question)]
    assert len(found) > 300
    for answer in found:
        left, right = answer.rstrip(".").split(" is ")
        assert size(left) == size(right), answer


def test_powers_and_temperatures(drawn: list[tuple[str, str]]) -> None:
    powers = degrees = 0
    for _, answer in drawn:
        if found := re.fullmatch(r"The (square|cube)( root)? of (\d+) is (\d+)\.", answer):
            of, is_ = int(found[3]), int(found[4])
            base, power = (is_, of) if found[2] else (of, is_)
            assert base ** {"square": 2, "cube": 3}[found[1]] == power, answer
            powers += 1
        if found := re.fullmatch(r"(-?\d+) degrees Celsius is (\S+) (.*)\.", answer):
            celsius, result = int(found[1]), Fraction(found[2])
            wanted = celsius + Fraction("273.15")
            assert result == (wanted if found[3] == "Kelvin" else 1.8 * celsius + 32), answer
            degrees += 1
    assert powers > 20
    assert degrees > 20


def test_what_is_held_out_is_not_asked_about() -> None:
    held = ("What is the opposite of 'thin'?", "Convert 4 liters to milliliters.", "Is it TALL?")
    asked = [one[0]["content"] for one in made.drills(19_000, held)]
    free = [one[0]["content"] for one in made.drills(19_000, ())]
    for what in ("'thin'", "'tall'", "Convert 4 liters to milliliters."):
        assert any(what in question for question in free)
        assert not any(what in question for question in asked)
    assert any("Convert 14 liters" in question for question in asked)


@pytest.mark.parametrize(
    ("when", "active", "passive"),
    [
        ("present", "She opens old boxes.", "Old boxes are opened by her."),
        ("past", "She opened old boxes.", "Old boxes were opened by her."),
        ("future", "She will open old boxes.", "Old boxes will be opened by her."),
        ("present-perfect", "She has opened old boxes.", "Old boxes have been opened by her."),
    ],
)
def test_sentences(when: str, active: str, passive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "MANY", {"boxes"})
    she = made.Subject("She", "her", "one")
    opens = made.Verb("open", "opens", "opened", "opened", "opening")
    assert made.said(she, opens, "old boxes", when) == active
    assert made.suffered(she, opens, "old boxes", when) == passive


@pytest.mark.parametrize(
    ("when", "person", "sentence"),
    [
        ("past-perfect", "many", "They had sung a song."),
        ("future-perfect", "many", "They will have sung a song."),
        ("present-continuous", "many", "They are singing a song."),
        ("present-continuous", "I", "They am singing a song."),
        ("past-continuous", "one", "They was singing a song."),
        ("future-continuous", "many", "They will be singing a song."),
        ("present", "one", "They sings a song."),
    ],
)
def test_tenses(when: str, person: str, sentence: str) -> None:
    sing = made.Verb("sing", "sings", "sang", "sung", "singing")
    assert made.said(made.Subject("They", "them", person), sing, "a song", when) == sentence


def test_nouns_and_words_of_a_text() -> None:
    text = "the tower was old . " * 6 + "the tall house of the tower , " * 6 + "unusual words " * 40
    found = made.words_of(text + "the ships were lost . " * 9 + "the rare of the bell .")
    assert set(found.nouns) == {"tower"}  # what is not seldom, no adjective, no plural
    assert set(found.spelt) == {"unusual", "words"}
    asked = " ".join(one[0]["content"] for one in made.drills(2000, ["Change: the tower."], text))
    assert "the tower" in asked.lower()
    told = made.drills(2000, ["What is the plural of 'unusual'?"], text)
    assert not any("'unusual'" in one[1]["content"] for one in told)


@pytest.mark.parametrize(
    ("base", "forms"),
    [
        ("watch", "watches watched watched watching"),
        ("miss", "misses missed missed missing"),
        ("improve", "improves improved improved improving"),
        ("review", "reviews reviewed reviewed reviewing"),
        ("destroy", "destroys destroyed destroyed destroying"),
    ],
)
def test_forms_of_regular_verbs(base: str, forms: str) -> None:
    assert made.regular(base) == made.Verb(base, *forms.split())


def test_words_misspelt_have_one_mistake() -> None:
    rng = random.Random(0)
    for word in made.SPELLED:
        wrong = made.misspelt(word, rng)
        assert wrong != word
        assert wrong[0] == word[0]
        assert abs(len(wrong) - len(word)) <= 1
        assert sorted(set(wrong) - set(word)) == []
