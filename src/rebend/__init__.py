"""rebend: change a language model through its hidden states (RepBend, RE-Control), as cached stages."""

__version__ = "0.1.0"
