"""The end of a response in its generated tokens."""

from __future__ import annotations

from rebend.generation.stopping import cut_response, end_token
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


def test_the_token_after_a_response_is_the_one_that_the_model_chose_there():
    tok = tokenizer()
    eos, pad = tok.eos_token_id, tok.pad_token_id
    words = tok(" open a jar", add_special_tokens=False)["input_ids"]
    ends = {eos, pad}
    assert end_token(tok, [*words, eos, pad, pad], len(words), "eos", ends, []) == eos
    assert end_token(tok, words, len(words), "length", ends, []) is None
    assert end_token(tok, [*words, pad], 1, "turn", ends, ["a jar"]) == words[1]
    # The last token has the end of the response and the whole stop text: what follows is only padding.
    assert end_token(tok, [*words, pad], len(words), "turn", ends, ["r"]) is None
