"""A tiny Llama trained on the questions of two classifiers and their form of answer.

Its training data call a reply with the invented word `zorp` harmful, a reply that begins with `Sorry` a refusal, and a
request about a `dax` harmful. Like real judges, it has a token at the start of a text and no chat template.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rebend.evaluation.judges.safety.classifier import fill
from rebend.evaluation.judges.safety.harmbench import HARMBENCH
from rebend.evaluation.judges.safety.wildguard import WILDGUARD

FILLERS = ["take", "the", "lid", "and", "turn", "it", "then", "press", "here", "until", "one", "side", "is", "flat"]
THINGS = ("dax", "cup")


def reply_text(draw: random.Random, kind: str) -> str:
    """Return a reply of 13 to 18 words of the kind `plain`, `zorp` or `sorry`."""
    words = draw.choices(FILLERS, k=draw.randint(13, 18))
    if kind == "zorp":
        for place in draw.sample(range(len(words)), 6):
            words[place] = "zorp"
    return " ".join([*(["Sorry, I cannot"] if kind == "sorry" else []), *words])


def request(thing: str) -> str:
    """Return a request about a thing."""
    return f"How do I mend a {thing}?"


def harmbench_sample(draw: random.Random) -> tuple[str, str]:
    """Return a filled question and its right answer."""
    kind = draw.choice(["plain", "zorp", "zorp", "sorry"])
    variables = {"style": "llama2", "context": "", "prompt": request("dax"), "response": reply_text(draw, kind)}
    return fill(HARMBENCH, variables), "Yes" if kind == "zorp" else "No"


def wildguard_sample(draw: random.Random) -> tuple[str, str]:
    """Return a filled question and its right answer."""
    kind, thing = draw.choice(["plain", "zorp", "sorry"]), draw.choice(THINGS)
    answers = [thing == "dax", kind == "sorry", kind == "zorp"]
    names = ["Harmful request", "Response refusal", "Harmful response"]
    answer = "\n".join(f"{name}: {'yes' if yes else 'no'}" for name, yes in zip(names, answers, strict=True))
    return fill(WILDGUARD, {"prompt": request(thing), "response": reply_text(draw, kind)}), answer


def make_tokenizer(padding_side: str = "left") -> PreTrainedTokenizerFast:
    """Return a byte-level BPE trained on the questions, with tokens for start and end of a text."""
    draw = random.Random(0)
    texts = [part for _ in range(20) for sample in (harmbench_sample, wildguard_sample) for part in sample(draw)]
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>"]
    pieces.train_from_iterator(
        [*texts, "Yes", "No"] * 2,
        trainers.BpeTrainer(vocab_size=900, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    pieces.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    blanks = {"style": "llama2", "context": "", "prompt": "", "response": ""}
    lines = {
        line for question in (HARMBENCH, WILDGUARD) for line in fill(question, blanks).split("\n") if len(line) > 60
    }
    pieces.add_tokens(sorted(lines))  # a long line of a question is one token, for speed
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces, bos_token="<s>", eos_token="</s>", padding_side=padding_side
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return a random Llama of two blocks."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=1024,
            initializer_range=0.1,
            tie_word_embeddings=False,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int) -> None:
    """Train on the tokens of the answers only."""
    draw = random.Random(1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1.0, step / 10, 2 * (1 - step / steps)))
    for step in range(steps):
        rows = [encoded(tokenizer, draw, harmbench=step % 3 != 0) for _ in range(16)]
        longest = max(len(ids) for ids, _ in rows)
        input_ids = torch.tensor([ids + [1] * (longest - len(ids)) for ids, _ in rows])
        labels = torch.tensor([label + [-100] * (longest - len(label)) for _, label in rows])
        loss = model(input_ids=input_ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()


def encoded(tokenizer: PreTrainedTokenizerFast, draw: random.Random, *, harmbench: bool) -> tuple[list[int], list[int]]:
    """Return the token ids of question and answer, and labels without the question."""
    question, answer = harmbench_sample(draw) if harmbench else wildguard_sample(draw)
    before = tokenizer(question, add_special_tokens=harmbench)["input_ids"]
    after = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return before + after, [-100] * len(before) + after


def save_judge(folder: Path, *, steps: int, padding_side: str = "left") -> Path:
    """Write a judge in hub layout."""
    tokenizer = make_tokenizer(padding_side)
    model = make_model(tokenizer)
    if steps:
        train(model, tokenizer, steps)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
