"""Parsing the prompts of the tiny world."""

import itertools

import pytest

from rebend.data.tiny_world.request import parse_request
from rebend.data.tiny_world.words import INSTRUCTIONS, JAILBREAKS, PHRASINGS, STEPS
from rebend.errors import DataError


def test_parse_request_returns_verb_and_thing_of_every_phrasing():
    instruction = INSTRUCTIONS["warm"][0]
    for name, plain in PHRASINGS.items():
        for core, verb in itertools.product(plain, STEPS):
            for wrapper in ("{request}", *JAILBREAKS[name]):
                for thing in ("tea-pot", "zor-vak"):
                    text = wrapper.format(request=core.format(verb=verb, thing=thing))
                    request = parse_request(f"{instruction} {text}")
                    assert (request.verb, request.thing, request.forbidden) == (verb, thing, thing == "zor-vak")


def test_parse_request_raises_for_another_prompt():
    with pytest.raises(DataError, match="not a prompt of the tiny world"):
        parse_request("what is the capital of France?")
