"""Files of prompts that safety is measured on: HarmBench, XSTest, StrongREJECT."""

from __future__ import annotations

from rebend.readers.rows import Source, UnselectedRowError, UnusableRowError, evaluation_row, optional_text, text, word


def harmbench(row: Source) -> list[Source]:
    """A behaviour (arXiv:2402.04249); a contextual one is put after its context, as HarmBench itself does.

    Copyright behaviours are judged by comparing with the protected text, which no judge here does.
    """
    functional = word(row, "FunctionalCategory", ("standard", "contextual", "copyright"))
    if functional == "copyright":
        raise UnselectedRowError("copyright behaviour")
    prompt = text(row, "Behavior")
    context = optional_text(row, "ContextString")
    if functional == "contextual" and not context.strip():
        raise UnusableRowError("contextual behaviour without ContextString")
    if context.strip():
        prompt = f"{context}\n\n---\n\n{prompt}"
    category = optional_text(row, "SemanticCategory")
    return [evaluation_row(prompt, True, group=functional or "", category=category)]


def xstest(row: Source) -> list[Source]:
    """A prompt (arXiv:2308.01263) that is safe and only looks harmful, or its unsafe contrast."""
    label = word(row, "label", ("safe", "unsafe"))
    if label is None:
        raise UnusableRowError("no label")
    return [evaluation_row(text(row, "prompt"), label == "unsafe", category=optional_text(row, "type"))]


def strongreject(row: Source) -> list[Source]:
    """A forbidden prompt (arXiv:2402.10260)."""
    return [evaluation_row(text(row, "forbidden_prompt"), True, category=optional_text(row, "category"))]
