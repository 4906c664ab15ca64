"""The vocabulary of the tiny world."""

import itertools

from rebend.data.tiny_world.words import JAILBREAKS, PHRASINGS, POLITE, STEPS, reply


def test_phrasings_of_validation_and_test_are_not_in_training():
    train, validation, test = (set(PHRASINGS[name]) | set(JAILBREAKS[name]) for name in ("train", "validation", "test"))
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_reply_repeats_no_bigram():
    for verb, slots in itertools.product(STEPS, itertools.product((False, True), repeat=len(POLITE))):
        words = reply(verb, "tea-pot", slots).replace(",", " ,").replace(".", " .").replace("!", " !").split()
        pairs = list(itertools.pairwise(words))
        assert len(pairs) == len(set(pairs))


def test_steps_of_each_verb_are_unique():
    assert len({second for second, _ in STEPS.values()}) == len(STEPS)
    assert len({last for _, last in STEPS.values()}) == len(STEPS)
