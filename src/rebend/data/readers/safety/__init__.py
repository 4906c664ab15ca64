"""One file per format of safety prompts and answers, in the columns of their authors.

RepBend's authors evaluate with a fork of allenai/safety-eval. How many prompts they took is not always said; the
rates they print are fractions of 320 prompts (HarmBench asked directly, PAP, GCG: the whole test file, with its
copyright behaviours), 240 (prefilling and input embedding: without those), 1,600 (DAN), 400 (TrustLLM), 749
(WildGuardTest), 250 (WildJailbreak, benign) and, for XSTest, of all its 450 prompts.
"""
