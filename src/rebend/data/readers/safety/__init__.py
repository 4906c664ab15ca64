"""One file per format of safety prompts and answers, with the column names of its authors.

RepBend's authors evaluate with a fork of allenai/safety-eval. The paper does not always state the number of prompts.
Its printed rates are fractions of 320 prompts (HarmBench without attack, PAP, GCG: the complete test file, with its
copyright behaviours), 240 (prefilling and input embedding: without copyright behaviours), 1,600 (DAN), 400 (TrustLLM),
749 (WildGuardTest), 250 (WildJailbreak, benign) and 450 (XSTest: all prompts).
"""
