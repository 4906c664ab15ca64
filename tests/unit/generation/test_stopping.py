"""The end of a response in its generated tokens."""

from __future__ import annotations

from rebend.generation.stopping import cut_response
from tests.helpers.small_policy import tokenizer


def test_the_response_ends_before_eos_and_before_a_new_user_turn():
    tok = tokenizer()
    words = tok("open the lid. User: and the lamp")["input_ids"]
    eos, pad = tok.eos_token_id, tok.pad_token_id
    n, text, finish = cut_response(tok, [], [*words, eos, pad, pad], {eos, pad}, [])
    assert (n, text, finish) == (len(words), "open the lid. User: and the lamp", "eos")
    n, text, finish = cut_response(tok, [], [*words, eos], {eos, pad}, ["User:"])
    assert (text, finish) == ("open the lid. ", "turn")
    assert tok.decode(words[:n]).startswith(text.rstrip())
    assert "User" not in tok.decode(words[:n])
    n, text, finish = cut_response(tok, [], words, {eos, pad}, [])
    assert (n, finish) == (len(words), "length")


def test_a_special_token_that_begins_a_user_turn_ends_the_response():
    tok = tokenizer()
    user = tok.convert_tokens_to_ids("<|user|>")
    words = tok("a lamp")["input_ids"]
    ids = [*words, user, *words]
    n, text, finish = cut_response(tok, [], ids, {tok.eos_token_id}, ["<|user|>"])
    assert (n, text, finish) == (len(words), "a lamp", "turn")
