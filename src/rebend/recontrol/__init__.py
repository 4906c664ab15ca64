"""Methods that act while decoding: RE-Control (arXiv:2406.05954) and the methods it is compared with.

Read `decode.py` first: it makes a control from its settings and decodes with it. `methods/` has one file per method,
`value_model/` trains what RE-Control ascends, and `choose_strength.py` tunes a control on validation prompts.
"""
