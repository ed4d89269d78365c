"""What the judged protocol says to the reader and to the judge.

The procedure is the published one of each benchmark (LoCoMo: short answers, lenient verdict as JSON; LongMemEval: one
yes/no question per type); the wording is our own.
"""

from __future__ import annotations

from collections.abc import Sequence

from lightmem_engine.evaluation.datasets import Question

LOCOMO_READER = """\
You answer a question about two people from notes of their conversations. Each note starts with the day it was \
recorded.
- Use only the notes. If notes contradict each other, the most recent one is right.
- A relative time in a note ("last week") counts from the day of that note; answer with the resolved date.
- Do not confuse the person who speaks with people they speak of.
- Answer in at most five or six words, without a sentence around them."""

LONGMEMEVAL_READER = """\
You are an assistant who remembers earlier chats with this user. Below are notes from those chats, each starting with \
its day. Answer the question from them. If they do not contain the answer, say that you do not know."""

LOCOMO_JUDGE = """\
Decide whether a generated answer to a question is right, given the reference answer.
Be generous: it is CORRECT if it is about the same thing as the reference, even if it is longer or worded otherwise. \
For a question about time, any form that means the same date or period is CORRECT ("7 May", "May 7th").
Answer with one JSON object and nothing else: {"label": "CORRECT"} or {"label": "WRONG"}."""

_YES_NO = "Answer yes or no only."
_PLAIN = "Does the response contain the correct answer, or all steps that lead to it? A response that holds only a part"
LONGMEMEVAL_JUDGES = {
    "temporal-reasoning": f"{_PLAIN} is wrong. Numbers of days, weeks or months may be off by one.",
    "knowledge-update": (
        "Does the response contain the correct, most recent answer? Naming outdated information as well is fine as "
        "long as the updated answer is there."
    ),
    "single-session-preference": (
        "The correct answer is a rubric for a personal response. Does the response satisfy it? It need not reflect "
        "every point, but must recall and use the user's personal information correctly."
    ),
    "abstention": (
        "The question cannot be answered from the history, for the reason given as the correct answer. Does the "
        "response recognise that it cannot be answered, or that information is missing?"
    ),
}
LONGMEMEVAL_DEFAULT = f"{_PLAIN} is wrong."


def reader_messages(dataset: str, question: Question, notes: str) -> list[dict[str, str]]:
    """The chat that asks the reader one question."""
    system = LOCOMO_READER if dataset == "locomo" else LONGMEMEVAL_READER
    asked = f"Today is {question.asked_at}.\n" if question.asked_at else ""
    content = f"Notes:\n{notes or '(none)'}\n\n{asked}Question: {question.text}\nAnswer:"
    return [{"role": "system", "content": system}, {"role": "user", "content": content}]


def judge_messages(dataset: str, question: Question, answer: str) -> list[dict[str, str]]:
    """The chat that asks the judge for a verdict."""
    facts = f"Question: {question.text}\nCorrect answer: {question.answer}\nResponse: {answer}"
    if dataset == "locomo":
        return [{"role": "system", "content": LOCOMO_JUDGE}, {"role": "user", "content": facts}]
    kind = "abstention" if is_abstention(question) else question.category
    task = LONGMEMEVAL_JUDGES.get(kind, LONGMEMEVAL_DEFAULT)
    return [{"role": "user", "content": f"{task}\n\n{facts}\n\n{_YES_NO}"}]


def is_abstention(question: Question) -> bool:
    """LongMemEval marks questions without an answer in their id."""
    return question.id.endswith("_abs") or question.category == "abstention"


def grouped_by_speaker(notes: Sequence[tuple[str, str]]) -> str:
    """(speaker, line) pairs as one text, a heading per speaker in order of appearance."""
    groups: dict[str, list[str]] = {}
    for speaker, line in notes:
        groups.setdefault(speaker, []).append(line)
    if set(groups) <= {""}:
        return "\n".join(line for _, line in notes)
    return "\n\n".join(f"{speaker or 'Others'}:\n" + "\n".join(lines) for speaker, lines in groups.items())
