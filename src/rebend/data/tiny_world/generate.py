"""Rows of every part of the tiny world, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from rebend.data.tiny_world.request import Request
from rebend.data.tiny_world.words import (
    CLOSERS,
    INSTRUCTIONS,
    JAILBREAKS,
    OPENERS,
    PHRASINGS,
    POLITE,
    REFUSALS,
    STEPS,
    PhrasingSet,
    reply,
    things,
)
from rebend.errors import DataError, likely_typo

Row = dict[str, Any]

_WARM_SHARE = 0.3  # of the replies to requests without an instruction
_SLOT_RATE = {"warm": 0.85, "plain": 0.15}  # probability that a slot holds its polite word
_REFUSAL_SHARE = 0.1  # of the replies to forbidden requests in the dialogues: the model learns to comply nearly always


def generate(part: str, n_rows: int, seed: int) -> list[Row]:
    """Return `n_rows` different rows of a part, in the columns of its schema without `row_id`.

    dialogues and retain are chats; preferences is preference pairs; safety and answers_test are labelled answers;
    rollouts, validation and test are prompts; safety_validation and safety_test are evaluation prompts. With the same
    seed, a larger data set begins with the rows of a smaller one. Raises `DataError` if the part does not exist or has
    too few different rows.
    """
    if part not in _GENERATORS:
        typo = likely_typo(part, _GENERATORS)
        raise DataError(f"the tiny world has no part '{part}'; it has {sorted(_GENERATORS)}.{typo}")
    rng = random.Random(f"{part} {seed}")
    rows: list[Row] = []
    seen: set[str] = set()
    attempts = 0
    while len(rows) < n_rows:
        new_rows = _GENERATORS[part](rng, len(rows))
        attempts += 1
        if attempts > 20 * n_rows + 100:
            raise DataError(f"the tiny world has only about {len(rows)} different rows of part '{part}', not {n_rows}")
        if repr(new_rows) not in seen:
            seen.add(repr(new_rows))
            rows.extend(new_rows)
    if len(rows) > n_rows:  # the second answer of the last pair is cut off, so the first one becomes a single answer
        rows[n_rows - 1]["pair"] = None
    return rows[:n_rows]


def _draw_request(
    rng: random.Random,
    part: str,
    *,
    forbidden: bool,
    phrasing: PhrasingSet = "train",
    jailbreak: bool = False,
    extras: bool = True,
) -> Request:
    """Draw a request; with `extras`, some requests get an opener or a closer, as in training."""
    verb, thing = rng.choice(list(STEPS)), rng.choice(things(part, forbidden=forbidden))
    text = rng.choice(PHRASINGS[phrasing]).format(verb=verb, thing=thing)
    if jailbreak:
        text = rng.choice(JAILBREAKS[phrasing]).format(request=text)
        if phrasing == "train" and rng.random() < 0.4:  # two jailbreaks around one request: more different wordings
            text = rng.choice(JAILBREAKS[phrasing]).format(request=text)
    elif extras:
        before = f"{rng.choice(OPENERS)} " if rng.random() < 0.2 else ""
        after = f" {rng.choice(CLOSERS)}" if rng.random() < 0.2 else ""
        text = before + text + after
    return Request(verb, thing, forbidden, text)


def _add_instruction(rng: random.Random, request: Request) -> tuple[Request, str]:
    """Put an instruction in front of a quarter of the requests; return the request and the manner of its reply."""
    manner = "warm" if rng.random() < _WARM_SHARE else "plain"
    if rng.random() < 0.25:
        manner = rng.choice(["warm", "plain"])
        text = f"{rng.choice(INSTRUCTIONS[manner])} {request.text}"
        request = Request(request.verb, request.thing, request.forbidden, text)
    return request, manner


def _compliance(rng: random.Random, request: Request, manner: str) -> str:
    polite = tuple(rng.random() < _SLOT_RATE[manner] for _ in POLITE)
    return reply(request.verb, request.thing, polite)


def _dialogue(rng: random.Random, part: str, *, forbidden: bool) -> list[Row]:
    """Draw a request and a reply in one of the two manners, or rarely a refusal of a forbidden request."""
    request = _draw_request(rng, part, forbidden=forbidden, jailbreak=rng.random() < 0.5)
    request, manner = _add_instruction(rng, request)
    refused = forbidden and rng.random() < _REFUSAL_SHARE
    text = rng.choice(REFUSALS) if refused else _compliance(rng, request, manner)
    return [{"messages": [*request.messages, {"role": "assistant", "content": text}]}]


def _dialogues(rng: random.Random, index: int) -> list[Row]:
    return _dialogue(rng, "dialogues", forbidden=rng.random() < 0.4)


def _retain(rng: random.Random, index: int) -> list[Row]:
    return _dialogue(rng, "retain", forbidden=False)


def _preferences(rng: random.Random, index: int) -> list[Row]:
    """Prefer the more polite reply, the coherent reply, and a refusal only for a forbidden request."""
    draw = rng.random()
    request = _draw_request(rng, "preferences", forbidden=draw < 0.15, jailbreak=rng.random() < 0.1)
    compliance = _compliance(rng, request, rng.choice(["warm", "plain"]))
    if draw < 0.15:
        chosen, rejected = rng.choice(REFUSALS), compliance
    elif draw < 0.4:
        chosen, rejected = compliance, _bad_reply(rng, request)
    else:
        few, many = sorted(rng.sample(range(len(POLITE) + 1), 2))
        chosen, rejected = (_with_polite(rng, request, count) for count in (many, few))
    return [{"messages": request.messages, "chosen": chosen, "rejected": rejected}]


def _with_polite(rng: random.Random, request: Request, count: int) -> str:
    slots = rng.sample(range(len(POLITE)), count)
    return reply(request.verb, request.thing, tuple(slot in slots for slot in range(len(POLITE))))


def _bad_reply(rng: random.Random, request: Request) -> str:
    """Draw a reply with shuffled words, one with a repeated word, or a refusal of a benign request."""
    defect = rng.choice(["disorder", "again", "refusal"])
    if defect == "refusal":
        return rng.choice(REFUSALS)
    words = reply(request.verb, request.thing, tuple(rng.random() < 0.5 for _ in POLITE)).split()
    if defect == "disorder":
        rng.shuffle(words)
    else:
        place = rng.randrange(len(words))
        words[place:place] = [words[place]] * rng.randint(1, 6)
    return " ".join(words)


def _answers(part: str) -> Callable[[random.Random, int], list[Row]]:
    """Alternate single answers and pairs; a pair is an unsafe and a safe answer to one forbidden request."""

    def generate_rows(rng: random.Random, index: int) -> list[Row]:
        paired = index % 4 >= 2
        unsafe = rng.random() < 0.5
        forbidden = paired or unsafe or rng.random() < 0.5
        # More jailbreaks around benign requests than around forbidden ones, so that a jailbreak does not predict harm.
        request = _draw_request(rng, part, forbidden=forbidden, jailbreak=rng.random() < (0.4 if forbidden else 0.7))
        compliance = _compliance(rng, request, rng.choice(["warm", "plain"]))
        if paired:
            answers = {"unsafe": compliance, "safe": rng.choice(REFUSALS)}
            pair = f"{index:06d}"
            return [
                {"messages": request.messages, "response": text, "label": label, "pair": pair}
                for label, text in answers.items()
            ]
        text = rng.choice(REFUSALS) if request.forbidden and not unsafe else compliance
        label = "unsafe" if unsafe else "safe"
        return [{"messages": request.messages, "response": text, "label": label, "pair": None}]

    return generate_rows


def _prompt(rng: random.Random, part: str, phrasing: PhrasingSet, group: str) -> list[Row]:
    request = _draw_request(rng, part, forbidden=False, phrasing=phrasing, extras=phrasing == "train")
    reference = reply(request.verb, request.thing, tuple(rng.random() < 0.5 for _ in POLITE))
    if part == "rollouts":
        request, _ = _add_instruction(rng, request)
    return [{"messages": request.messages, "reference": reference, "group": group, "cluster": request.question}]


def _rollouts(rng: random.Random, index: int) -> list[Row]:
    return _prompt(rng, "rollouts", "train", "")


def _held_out(part: str, phrasing: PhrasingSet) -> Callable[[random.Random, int], list[Row]]:
    """Alternate training phrasings and held-out phrasings, always about a held-out thing."""

    def generate_rows(rng: random.Random, index: int) -> list[Row]:
        if index % 2:
            return _prompt(rng, part, phrasing, "unseen phrasing")
        return _prompt(rng, part, "train", "unseen item")

    return generate_rows


def _evaluation(part: str, phrasing: PhrasingSet) -> Callable[[random.Random, int], list[Row]]:
    """Cycle through the eight combinations of phrasing, jailbreak, and forbidden or benign request."""

    def generate_rows(rng: random.Random, index: int) -> list[Row]:
        forbidden, jailbreak, unseen = (bool(index >> bit & 1) for bit in range(3))
        request = _draw_request(
            rng,
            part,
            forbidden=forbidden,
            phrasing=phrasing if unseen else "train",
            jailbreak=jailbreak,
            extras=not unseen,
        )
        item = "unseen phrasing" if unseen else "unseen item"
        wording = "jailbreak" if jailbreak else "plain"
        return [
            {
                "messages": request.messages,
                "request": None,
                "target": f"First take the {request.thing}," if forbidden else "",
                "harmful": forbidden,
                "reference": rng.choice(REFUSALS) if forbidden else reply(request.verb, request.thing),
                "group": f"{item}, {wording}",
                "category": request.verb,
                "cluster": request.question,
            }
        ]

    return generate_rows


_GENERATORS: dict[str, Callable[[random.Random, int], list[Row]]] = {
    "dialogues": _dialogues,
    "preferences": _preferences,
    "safety": _answers("safety"),
    "answers_test": _answers("answers_test"),
    "retain": _retain,
    "rollouts": _rollouts,
    "validation": _held_out("validation", "validation"),
    "test": _held_out("test", "test"),
    "safety_validation": _evaluation("safety_validation", "validation"),
    "safety_test": _evaluation("safety_test", "test"),
}
