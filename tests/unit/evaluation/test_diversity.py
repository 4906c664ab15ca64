"""Diversity: the published formula, by hand and as in the released code."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rebend.evaluation.diversity import cut, diversity, repetition


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


@pytest.mark.parametrize("marker", ["###", "###USER: more", "\n\nUSER: more", "### a ###USER: b"])
def test_response_ends_at_the_published_markers(marker: str) -> None:
    assert cut("an answer" + marker) == "an answer"


def test_other_turn_markers_are_not_cut() -> None:
    assert cut("an answer\nUser: more") == "an answer\nUser: more"


def test_punctuation_counts_as_words() -> None:
    assert diversity("well, yes, well, yes, well") < diversity("well yes now then well")
    assert diversity("a, b, c, d") == pytest.approx(6 / 7 * 5 / 6 * 4 / 5)  # a , b , c , d: seven words


def test_module_does_not_import_torch() -> None:
    code = "import sys, rebend.evaluation.diversity as d; d.diversity('a b c d'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
