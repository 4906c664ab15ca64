"""Diversity: the published formula, by hand and as in the released code."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from importlib.resources import files

import pytest

from rebend.evaluation.diversity import cut, diversity, repetition
from rebend.evaluation.words.punkt import sentences, words


def test_text_without_repetition_scores_less_than_one_because_of_plus_one() -> None:
    # five words: 4, 3, 2 n-grams, all different
    assert diversity("one two three four five") == pytest.approx(4 / 5 * 3 / 4 * 2 / 3)


def test_diversity_of_a_repeating_text_equals_the_value_by_hand() -> None:
    # a b a b a: bigrams ab ba ab ba -> 2 of 4; trigrams aba bab aba -> 2 of 3; 4-grams abab baba -> 2 of 2
    assert diversity("a b a b a") == pytest.approx(2 / 5 * 2 / 4 * 2 / 3)


def test_diversity_equals_the_formula_of_the_released_code() -> None:
    words = ["to", "be", "or", "not", "to", "be", "that", "is", "to", "be"]
    product = 1.0
    for n in (2, 3, 4):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        rep_in_percent = 100 * (1.0 - len(set(grams)) / (len(grams) + 1))
        product *= 1.0 - rep_in_percent / 100
    assert diversity(" ".join(words)) == pytest.approx(product)


@pytest.mark.parametrize("response", ["", " ", "two words", "only three words"])
def test_fewer_than_four_words_score_zero_as_published(response: str) -> None:
    assert diversity(response) == 0.0


def test_repetition_of_a_text_without_ngrams_is_one() -> None:
    assert repetition(["a"], 2) == 1.0


@pytest.mark.parametrize("marker", ["###USER: more", "\n\nUSER: more", "###USER: a \n\nUSER: b", "\n\nUSER:###USER:"])
def test_response_ends_at_the_published_markers(marker: str) -> None:
    assert cut("an answer" + marker) == "an answer"


@pytest.mark.parametrize(
    "more", ["\nUser: more", "\nUSER: more", "### Steps", "###", "### USER: more", "###User: more"]
)
def test_other_turn_markers_and_headings_are_not_cut(more: str) -> None:
    assert cut("an answer" + more) == "an answer" + more


def test_markdown_heading_does_not_score_zero() -> None:
    # the words # # # Steps mix and bake: 5 of 6 bigrams are distinct, all 5 trigrams, all 4 sequences of four
    assert diversity("### Steps\nmix and bake") == pytest.approx(5 / 7 * 5 / 6 * 4 / 5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Stop. Then go.", ["Stop", ".", "Then", "go", "."]),
        ("Dr. Smith left. He slept.", ["Dr.", "Smith", "left", ".", "He", "slept", "."]),
        ("It is 5 p.m. now. Yes?", ["It", "is", "5", "p.m.", "now", ".", "Yes", "?"]),
        ("I can't, said Mr. Cox of Ga. in Jan. last. So.", "I ca n't , said Mr. Cox of Ga. in Jan. last . So ."),
        ("See e.g. this... and that. End", ["See", "e.g", ".", "this", "...", "and", "that", ".", "End"]),
    ],
)
def test_words_are_split_sentence_by_sentence(text: str, expected: list[str] | str) -> None:
    assert words(text) == (expected.split() if isinstance(expected, str) else expected)


def test_sentence_model_is_that_of_nltk() -> None:
    lines = (files("rebend.evaluation.words") / "english.txt").read_text(encoding="utf-8").split("\n")
    kinds = Counter(line.split("\t")[0] for line in lines if line and not line.startswith("# "))
    assert kinds == {"abbreviation": 156, "collocation": 37, "starter": 39, "word": 20366}
    assert sentences("He met Mrs. Hu. They ate.  Fine!") == ["He met Mrs. Hu.", "They ate.", "Fine!"]


def test_full_stops_of_sentences_are_words() -> None:
    # the words Go on . three times: 3 of 8 bigrams, 3 of 7 trigrams and 3 of 6 sequences of four are distinct
    assert diversity("Go on. Go on. Go on.") == pytest.approx(3 / 9 * 3 / 8 * 3 / 7)


def test_punctuation_counts_as_words() -> None:
    assert diversity("well, yes, well, yes, well") < diversity("well yes now then well")
    assert diversity("a, b, c, d") == pytest.approx(6 / 7 * 5 / 6 * 4 / 5)  # a , b , c , d: seven words


def test_module_does_not_import_torch() -> None:
    code = "import sys, rebend.evaluation.diversity as d; d.diversity('a b c d'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
