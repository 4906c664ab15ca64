"""Split a text into sentences and words as `nltk.word_tokenize` does, with the same model on every machine.

`word_tokenize` splits sentences by Punkt (Kiss and Strunk 2006, Computational Linguistics 32:485), so that the full
stop of each sentence is a word of its own, and words by NLTK's tokenizer. NLTK downloads the English model to each
machine; here it is `english.txt`: the model of nltk_data's package `punkt_tab` (MIT License), whose tables are
those of the older package `punkt`. The code is that of NLTK, in the version of `constraints.txt`.
"""

from __future__ import annotations

import functools
from importlib.resources import files
from typing import Any


def words(text: str) -> list[str]:
    """Return the words of an English text, sentence by sentence."""
    sentences, tokenizer = _tokenizers()
    return [word for sentence in sentences.tokenize(text) for word in tokenizer.tokenize(sentence)]


def sentences(text: str) -> list[str]:
    """Return the sentences of an English text, without the white space between them."""
    found: list[str] = _tokenizers()[0].tokenize(text)
    return found


@functools.cache
def _tokenizers() -> tuple[Any, Any]:
    """Return NLTK's tokenizers of sentences and words. The import takes more than a second: done on first use."""
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    text = files("rebend.evaluation.words").joinpath("english.txt").read_text(encoding="utf-8")
    for line in text.split("\n"):
        kind, *values = line.split("\t")
        if kind == "abbreviation":
            parameters.abbrev_types.add(values[0])
        elif kind == "collocation":
            parameters.collocations.add(tuple(values))
        elif kind == "starter":
            parameters.sent_starters.add(values[0])
        elif kind == "word":
            parameters.ortho_context[values[0]] = int(values[1])
    return PunktSentenceTokenizer(parameters), NLTKWordTokenizer()
