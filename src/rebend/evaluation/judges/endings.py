"""How a reply ended, from the `finish_reason` of an address: the words of OpenAI and of servers that speak like it."""

from __future__ import annotations

COMPLETE, CUT, FILTERED, FAILED, UNKNOWN = "complete", "cut", "filtered", "failed", "unknown"
_WORDS = {
    COMPLETE: ("stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed"),
    CUT: ("length", "max_tokens", "max_length", "max_output_tokens", "model_length", "token_limit"),
    FILTERED: (
        *("content_filter", "content_filtered", "refusal", "safety", "sensitive", "moderation", "guardrail_intervened"),
        *("recitation", "blocklist", "prohibited_content", "spii"),
    ),
    FAILED: (
        *("error", "abort", "aborted", "cancel", "cancelled", "canceled", "timeout", "time_limit", "network_error"),
        *("insufficient_system_resource", "other", "unexpected_state"),
    ),
}
_ENDINGS = {word: ending for ending, words in _WORDS.items() for word in words}


def ending_of(finish: str | None) -> str:
    """Return the kind of an ending, in any case; UNKNOWN if the address reports none or another word."""
    return _ENDINGS.get(finish.lower(), UNKNOWN) if finish else UNKNOWN
