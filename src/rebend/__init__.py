"""rebend: change a language model through its hidden states (RepBend, RE-Control), as cached stages.

Ten packages, each with its contract in the first line: `config`, `io`, `data`, `models`, `generation`,
`repbend`, `recontrol`, `evaluation`, `report`, `pipeline`. CONTRIBUTING.md has the map. Read first: `pipeline.graph.plan`
to follow a study, `repbend.train` or `recontrol.decode` to follow a method.
"""

__version__ = "0.1.0"
