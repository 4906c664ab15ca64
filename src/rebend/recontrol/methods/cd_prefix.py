"""CD prefix: token search by the value network, which predicts the reward from the state after each candidate.

The prefix scorer of controlled decoding (arXiv:2310.17022), as in RE-Control's table (arXiv:2406.05954, section 5).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import DynamicCache

from rebend.config.controls import PrefixSearchBlock
from rebend.generation.intervention import Control, NoControl, SearchStart
from rebend.recontrol.methods.token_search import TokenSearch, search_control
from rebend.recontrol.methods.tree_attention import TreeAttention
from rebend.recontrol.resources import ControlResources
from rebend.recontrol.value_model.network import ValueNetwork
from rebend.recontrol.value_network import value_network


def make(block: PrefixSearchBlock, resources: ControlResources) -> Control:
    """Return the search with the block's weight and number of candidates; no control if the weight is 0."""
    return search_control(PrefixSearch, value_network, block, resources)


@dataclass(frozen=True)
class PrefixSearch(NoControl):
    """The value network, on the model's device, scores the state after each candidate.

    A candidate that ends the response has no state after it: its score is V of the newest state.
    """

    network: ValueNetwork
    weight: float
    top_k: int

    @property
    def candidates_per_token(self) -> int:
        """Return k: the candidates are the k likeliest tokens."""
        return self.top_k

    def search(self, start: SearchStart) -> TokenSearch:
        """Return the search of a batch."""
        cache = DynamicCache()
        tree = TreeAttention(start.policy.model, start.mask, cache)
        ends = torch.tensor(start.ends, device=start.mask.device)

        def score(input_ids: torch.Tensor, candidates: torch.Tensor, newest: torch.Tensor) -> torch.Tensor:
            following = self.network(tree.read(candidates[:, :, None])[:, :, 0].float())
            return torch.where(torch.isin(candidates, ends), self.network(newest.float())[:, None], following)

        return TokenSearch(score, cache, self.weight, self.top_k)
