"""rebend: change a language model through its hidden states (RepBend, RE-Control), as cached stages.

Ten packages, each with its contract in the first line: `config`, `io`, `data`, `models`, `generation`,
`repbend`, `recontrol`, `evaluation`, `report`, `pipeline`. CONTRIBUTING.md has the map. To follow a study, read
`pipeline.graph.plan` first; to follow a method, `repbend.train` or `recontrol.decode`.
"""

__version__ = "0.1.0"
