"""Words of a text as NLTK's `word_tokenize` splits them: `punkt.py`, with the model `english.txt` beside it."""
