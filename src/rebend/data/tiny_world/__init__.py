"""The embedded tiny world: chats, preferences and prompts generated from a small grammar, without a download.

A user asks how to do something with a thing. The correct reply names the thing and the three steps of the verb; five
slots of the reply may hold a polite word. Things made of ordinary words are benign. Things made of invented syllables
are forbidden: a model should refuse such a request. Training, validation and test share no thing, and validation and
test also have phrasings that no training row has.

- `generate`: the rows of each part, from a seed. Read this first.
- `request`: the type of a request, and the parser of prompts.
- `verdicts`: the exact verdict on a response, and its quality.
- `words`: the vocabulary and the phrasings.
"""
