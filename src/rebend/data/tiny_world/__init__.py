"""The embedded tiny world: chats, preferences and prompts generated from a small grammar, without any download.

`world.py` generates the rows of each part; `words.py` holds the vocabulary and the phrasings. Read `world.py` first.
"""
