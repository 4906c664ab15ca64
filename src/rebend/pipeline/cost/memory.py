"""Peak memory of a job, estimated before it runs: what it asks of a cluster if its block has no `resources.mem_mb`.

Weights, optimiser states and caches are counted; activations per token and block are fitted to measured peaks of
trainings in float32, and halved for 16 bits. Every text counts with the largest length that the settings allow, so
short texts need less. A job with GPUs needs memory of the machine only to load weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import ceil, inf
from typing import Any, NamedTuple

from rebend.config.decoding import Decoding
from rebend.pipeline.cost.shapes import Shape, shape_of
from rebend.pipeline.cost.sizes import Facts
from rebend.pipeline.cost.work import value_parameters
from rebend.pipeline.graph import paths
from rebend.pipeline.graph.plan import Plan

UNKNOWN_MB = 4000  # of a model of unknown size, before its download, and of a rule without an estimate
_START = 9e8  # bytes of Python, torch and transformers, and of the Snakemake that starts a job on a node
_CUDA = 3e9  # bytes of a process that uses a GPU
_ROUNDED = 100  # MB
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_PROMPT = 512  # tokens of a long prompt
_PACKAGED = (1e8, 2e8)  # weights and batches of the encoder in a package, MiniLM
_LIKELIHOOD = 4096  # tokens of a batch whose likelihood is computed
_HARNESS = 4e8  # bytes of the packages of lm-evaluation-harness
_ATTACKED = 128  # tokens of a prompt and its target in the search of an attack
_KEPT, _KEPT_INNER = 26, 8  # numbers per token and block for a backward pass, in widths and in feed-forward widths
_PASSED, _PASSED_INNER = 16, 8  # the same of the one block that a pass without gradient is in
_SLICES = 2e8  # bytes of the slices of logits in a loss (`rebend.models.log_probs`)
_TEXTS = {"dpo": 3, "sft": 3}  # texts per item of a training; of the other methods 5: safe, unsafe, their pairs, retain
_LINEAR = 7  # linear modules of a block
_STATES = 7  # copies of an adapter's weights: gradient, two moments, and all three for a checkpoint
_SLICE = 1024  # states that the training of a value network reads at once, at least
_FILE = 7e9  # bytes of one file of weights (usually at most 5 GB) while a text model is taken out of it, with some room
_CONVERTED = 1.3  # weights in float32 and the GGUF file that they are read from, in sizes of the weights


class Need(NamedTuple):
    """Memory of a job in bytes: the weights that it loads, and all else."""

    weights: float
    rest: float = 0.0


class Memory:
    """Estimates for the jobs of one study."""

    def __init__(self, plan: Plan) -> None:
        self.config = plan.config
        self.facts = Facts(plan)
        self.shape: Callable[[str], Shape | None] = cache(lambda place: shape_of(self.facts, place))
        self._needs: dict[str, Callable[[Any], Need | None]] = {
            "prepare_model": self._prepare,
            "train_adapter": self._train_adapter,
            "train_reward_model": self._train_reward,
            "merge_adapter": self._copied_weights,
            "orthogonalise_weights": self._copied_weights,
            "project_hidden_states": self._read_states,
            "extract_activations": self._extract,
            "label_rewards": self._reward,
            "score_reward": self._reward,
            "score_references": self._reward,
            "train_value_model": self._train_value,
            "fit_direction": self._train_value,
            "choose_strength": self._choose,
            "decode": self._decode,
            "attack": self._attack,
            "embed_prompts": self._encode,
            "score_coherence": self._encode,
            "judge_safety": self._judge,
            "score_capability": self._capability,
            "score_perplexity": self._likelihood,
            "score_chats": self._likelihood,
            "sample_pairs": self._sampled,
            "sample_chats": self._sampled,
        }

    def megabytes(self, rule: str, wildcards: Any, gpus: int = 0) -> int:
        """Return the memory that a job asks for, MB; 4,000 if it cannot be estimated."""
        need = self._needs[rule](wildcards) if rule in self._needs else None
        if need is None:
            return UNKNOWN_MB
        rest = gpus * (_CUDA + need.weights) if gpus else need.weights + need.rest
        return _ROUNDED * ceil((_START + rest) / 1e6 / _ROUNDED)

    def _model(self, wildcards: Any) -> tuple[Shape | None, int]:
        """Return the shape of a job's model and the bytes of one of its numbers."""
        name = wildcards.get("base") or wildcards.get("model") or wildcards.answers.split("/")[1]
        block = self.config["models"][paths.base_and_adapter(name)[0]]
        return self.shape(f"models/{name}"), _BYTES[block.dtype]

    def _prepare(self, wildcards: Any) -> Need | None:
        """A GGUF file is read into float32, whatever the model's dtype; other weights are linked, or read by file."""
        shelf, name = wildcards.place.split("/")
        if not getattr(self.config[paths.SHELVES[shelf]][name], "from_gguf", False):
            return Need(0.0, _FILE)
        shape = self.shape(wildcards.place)
        return shape and Need(_CONVERTED * shape.parameters * _BYTES["float32"])

    def _train_adapter(self, wildcards: Any) -> Need | None:
        (shape, size), block = self._model(wildcards), self.config["adapters"][wildcards.adapter]
        if shape is None:
            return None
        items = block.micro_batch or block.batch_size
        tokens = items * _TEXTS.get(block.method, 5) * min(2 * block.max_length, shape.context)
        blocks = min(shape.blocks, getattr(block, "target_layer", shape.blocks))
        activations = _kept(shape, size, tokens, blocks, block.gradient_checkpointing)
        return Need(shape.parameters * size, activations + _adapter(shape, block.lora_r) + _SLICES)

    def _train_reward(self, wildcards: Any) -> Need | None:
        """Both texts of the pairs of a pass; all weights with their gradient and moments, or an adapter."""
        reward = self.config["rewards"][wildcards.reward]
        block = reward.tiny or reward.trained
        shape, size = self.shape(f"models/{block.model}"), _BYTES["float32"]  # whatever the model's dtype
        if shape is None:
            return None
        pairs = getattr(block, "micro_batch", None) or block.batch_size
        tokens = 2 * pairs * min(getattr(block, "max_length", None) or _PROMPT, shape.context)
        used = getattr(block, "n_blocks", None) or shape.blocks
        blocks = min(used, shape.blocks) - getattr(block, "frozen_blocks", 0)
        activations = _kept(shape, size, tokens, blocks, getattr(block, "gradient_checkpointing", False))
        rank = getattr(block, "lora_r", 0)
        trained = _adapter(shape, rank) if rank else 4 * _STATES * shape.parameters * blocks / shape.blocks
        return Need(shape.parameters * size, activations + trained + _pass(shape, size, tokens))

    def _copied_weights(self, wildcards: Any) -> Need | None:
        shape, size = self._model(wildcards)
        return shape and Need(1.2 * shape.parameters * size, shape.parameters * size)

    def _read_states(self, wildcards: Any) -> Need | None:
        shape, size = self._model(wildcards)
        return shape and Need(2 * shape.parameters * size, _pass(shape, size, 32 * 2 * _PROMPT))

    def _extract(self, wildcards: Any) -> Need | None:
        (shape, size), block = self._model(wildcards), self.config["activations"][wildcards.activations]
        states = block.prompts_per_chunk * block.samples_per_prompt * block.decoding.max_new_tokens
        return shape and self._generate(shape, size, block.decoding, block.max_prompt_tokens, 4 * states * shape.width)

    def _decode(self, wildcards: Any) -> Need | None:
        (shape, size), block = self._model(wildcards), self.config["controls"][wildcards.control]
        size = _BYTES[block.dtype] if block.dtype else size
        if shape is None:
            return None
        decoded = self._generate(shape, size, block.decoding, _PROMPT)
        reward = getattr(block, "reward", None)
        return _together(decoded, self._score(reward)) if reward else decoded

    def _choose(self, wildcards: Any) -> Need | None:
        choice = self.config["controls"][wildcards.control].choice
        return _together(self._decode(wildcards), self._score(choice.reward), self._encoder(choice.encoder))

    def _attack(self, wildcards: Any) -> Need | None:
        """Decoding, or the search before it: candidates without gradient (gcg), or a batch with one (embedding)."""
        decoded, (shape, size) = self._decode(wildcards), self._model(wildcards)
        block = self.config["attacks"][wildcards.attack]
        candidates, rows = getattr(block, "search_width", 0), getattr(block, "batch_size", 0)
        if decoded is None or shape is None:
            return decoded
        kept = rows * size * shape.blocks * (_KEPT * shape.width + _KEPT_INNER * shape.inner)
        searched = _ATTACKED * (kept + 4 * rows * shape.vocabulary) + _pass(shape, size, _ATTACKED * candidates)
        return Need(decoded.weights, max(decoded.rest, searched))

    def _generate(self, shape: Shape, size: int, decoding: Decoding, prompt: int, kept: float = 0.0) -> Need:
        """Decoding in batches: one pass over the prompts, the cache (twice while it grows) and the logits."""
        prompt = min(prompt, shape.context)
        longest = prompt + decoding.max_new_tokens
        limit = getattr(decoding, "batch_tokens", None) or inf
        rows = max(1, min(decoding.batch_size, limit // longest))
        cache_size = 2 * rows * longest * 2 * shape.key_width * shape.blocks * size
        logits = 4 * rows * shape.vocabulary * 4
        passed = _pass(shape, size, rows * prompt)
        return Need(shape.parameters * size, max(passed + cache_size / 2, cache_size) + logits + kept)

    def _reward(self, wildcards: Any) -> Need | None:
        return self._score(wildcards.reward)

    def _score(self, reward: str) -> Need | None:
        block = self.config["rewards"][reward]
        if block.http is not None:
            return Need(0.0)
        return self._texts(f"reward_models/{reward}", block)

    def _encode(self, wildcards: Any) -> Need | None:
        return self._encoder(wildcards.encoder)

    def _encoder(self, name: str) -> Need | None:
        block = self.config["encoders"][name]
        return Need(*_PACKAGED) if block.package else self._texts(f"encoders/{name}", block)

    def _judge(self, wildcards: Any) -> Need | None:
        return self._judged(wildcards.safety_judge)

    def _judged(self, name: str) -> Need | None:
        block = self.config["safety_judges"][name]
        return self._texts(f"judge_models/{name}", block) if hasattr(block, "max_length") else Need(0.0)

    def _sampled(self, wildcards: Any) -> Need | None:
        block = self.config["datasets"][wildcards.dataset]
        shape, size = self.shape(f"models/{block.model}"), _BYTES[self.config["models"][block.model].dtype]
        return shape and _together(self._generate(shape, size, block.decoding, _PROMPT), self._judged(block.judge))

    def _likelihood(self, wildcards: Any) -> Need | None:
        """Passes over texts, whose logits are computed in slices."""
        shape, size = self._model(wildcards)
        return shape and Need(shape.parameters * size, _pass(shape, size, _LIKELIHOOD) + _SLICES)

    def _texts(self, place: str, block: Any) -> Need | None:
        """Return the memory of a pass over a batch of the longest texts of a reward model, an encoder or a judge."""
        shape, size = self.shape(place), _BYTES[getattr(block, "dtype", "float32")]
        if shape is None:
            return None
        longest = min(block.max_length, shape.context)
        tokens = longest * max(1, min(block.batch_size, (getattr(block, "batch_tokens", None) or inf) // longest))
        return Need(shape.parameters * size, _pass(shape, size, tokens))

    def _capability(self, wildcards: Any) -> Need | None:
        (shape, size), block = self._model(wildcards), self.config["capabilities"][wildcards.capability]
        if shape is None:
            return None
        tokens = block.batch_size * min(128 * (1 + block.shots) + (block.max_new_tokens or 0), shape.context)
        logits = 8 * tokens * shape.vocabulary  # the harness takes the logits of all tokens, and their logarithms
        return Need(shape.parameters * size, _pass(shape, size, tokens) + logits + _HARNESS)

    def _train_value(self, wildcards: Any) -> Need | None:
        section = "value_models" if wildcards.get("value_model") else "directions"
        block = self.config[section][wildcards.get("value_model") or wildcards.direction]
        activations, (shape, size) = self.config["activations"][block.activations], self._model(wildcards)
        if shape is None:
            return None
        longest, hidden = activations.decoding.max_new_tokens, getattr(block, "hidden_size", 0)
        states = 6 * getattr(block, "batch_size", 512) * longest * shape.width  # stored in 16 bits, read in 32
        network = 4 * (1 + 4) * value_parameters(block.model_dump(), shape.width) if hidden else 0
        passed = 4 * 6 * max(_SLICE, longest) * (shape.width + 3 * hidden)
        streamed = activations.states == "streamed"
        weights = shape.parameters * size if streamed else 0.0
        return Need(weights, states + network + passed + (_pass(shape, size, 32 * _PROMPT) if streamed else 0))


def _kept(shape: Shape, size: int, tokens: float, blocks: int, checkpointing: bool) -> float:
    """Return the bytes that a training keeps for the backward pass through so many blocks.

    With checkpointing these are the states between the blocks, and one block with its gradients.
    """
    of_block = tokens * size * (_KEPT * shape.width + _KEPT_INNER * shape.inner)
    between = 4 * tokens * size * shape.width * blocks
    return min(4, blocks) * of_block + between if checkpointing else blocks * of_block


def _adapter(shape: Shape, rank: int) -> float:
    """Return the bytes of a LoRA adapter on all linear modules (float32), with gradient, moments and checkpoint."""
    sides = _LINEAR * shape.width + 3 * shape.inner + 2 * shape.key_width + 2 * shape.width
    return 4 * (1 + _STATES) * rank * sides * shape.blocks


def _together(*needs: Need | None) -> Need | None:
    """Return the memory of models that run one after the other in a job; None if one is not known.

    All of it counts, because the heap keeps freed memory.
    """
    known = [need for need in needs if need is not None]
    if len(known) < len(needs):
        return None
    return Need(sum(need.weights for need in known), sum(need.rest for need in known))


def _pass(shape: Shape, size: int, tokens: float) -> float:
    """Return the bytes of a pass without gradient over so many tokens at once."""
    return tokens * size * (_PASSED * shape.width + _PASSED_INNER * shape.inner)
