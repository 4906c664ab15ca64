"""Prompting: an instruction in front of the user's last message, alone and with the ascent."""

from __future__ import annotations

from rebend.config.decoding import Decoding
from rebend.generation.generate import generate
from rebend.generation.intervention import Control, NoControl
from rebend.recontrol.methods.prompting import Prompted, Prompting
from rebend.recontrol.methods.value_ascent import ValueAscent
from tests.helpers.small_policy import PROMPTS, make_policy
from tests.helpers.value_networks import network

GREEDY = Decoding(max_new_tokens=16, batch_size=8)


def tokens(responses):
    return [response.token_ids for response in responses]


def test_prompting_changes_the_prompt_and_nothing_else():
    policy, instruction = make_policy(), "Be kind."
    control = Prompting(instruction)
    turns = [*PROMPTS[0], {"role": "assistant", "content": "so"}, {"role": "user", "content": "and then"}]
    changed = control.messages(turns)
    assert changed[:-1] == turns[:-1]
    assert changed[-1]["content"] == "Be kind. and then"
    assert control.begin([1]) is None
    by_hand = [[{"role": "user", "content": f"{instruction} {m[0]['content']}"}] for m in PROMPTS]
    assert tokens(generate(policy, PROMPTS, GREEDY, control=control)) == tokens(generate(policy, by_hand, GREEDY))


def test_an_instruction_and_an_ascent_work_together():
    policy, decoding, net = make_policy(), Decoding(max_new_tokens=8), network(3, 3.0)
    prompted = Prompted("Be kind.", ValueAscent(net, 0.5, 30))
    assert prompted.messages(PROMPTS[0]) == Prompting("Be kind.").messages(PROMPTS[0])
    by_hand = [Prompting("Be kind.").messages(prompt) for prompt in PROMPTS]
    together = generate(policy, PROMPTS, decoding, control=prompted)
    assert [r.token_ids for r in together] == [
        r.token_ids for r in generate(policy, by_hand, decoding, control=ValueAscent(net, 0.5, 30))
    ]
    assert all(response.edit_norm > 0 for response in together)


def test_every_member_of_a_control_is_passed_on():
    """A member that is not passed on would have the value of no control."""
    members = [name for name in vars(Control) if not name.startswith("_")]
    assert len(members) >= 6 and not [name for name in members if name not in vars(Prompted)]
    released = ValueAscent(network(2), 0.5, 30, variant="released_code")
    prompted = Prompted("Be kind.", released)
    assert (prompted.norm_limit, prompted.whole_prompt) == (released.norm_limit, released.whole_prompt)
    assert prompted.norm_limit != NoControl().norm_limit
