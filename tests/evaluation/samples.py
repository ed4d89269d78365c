"""Tiny files in the published formats, written for these tests."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

LOCOMO: list[dict[str, Any]] = [
    {
        "sample_id": "talk-1",
        "conversation": {
            "speaker_a": "Nora",
            "speaker_b": "Emil",
            "session_2_date_time": "9:05 am on 2 June, 2022",
            "session_2": [
                {"speaker": "Emil", "dia_id": "D2:1", "text": "I adopted a greyhound called Biscuit."},
                {"speaker": "Nora", "dia_id": "D2:2", "text": "Lovely! My pottery class ends in autumn."},
            ],
            "session_1_date_time": "1:56 pm on 8 May, 2022",
            "session_1": [
                {"speaker": "Nora", "dia_id": "D1:1", "text": "I signed up for a pottery class yesterday."},
                {"speaker": "Emil", "dia_id": "D1:2", "text": "Nice, look:", "blip_caption": "a glazed blue bowl"},
                {"speaker": "Nora", "dia_id": "D1:3", "text": "Did you make that yourself?"},
            ],
            "session_3_date_time": "1:00 pm on 9 July, 2022",
        },
        "qa": [
            {
                "question": "When did Nora sign up for pottery?",
                "answer": "7 May 2022",
                "category": 2,
                "evidence": ["D1:1"],
            },
            {
                "question": "Which dog did Emil adopt?",
                "answer": "a greyhound called Biscuit",
                "category": 4,
                "evidence": ["D2:1; D9:9"],
                "evidence_ids": ["D2:1"],
            },
            {"question": "What is Nora learning?", "answer": "pottery", "category": 1, "evidence": ["D1:1", "D2:02"]},
            {"question": "Is Emil rich?", "answer": 3, "category": 3, "evidence": []},
            {
                "question": "Which cat did Nora adopt?",
                "adversarial_answer": "Biscuit",
                "category": 5,
                "evidence": ["D2:1"],
            },
        ],
    }
]

BEAM: list[dict[str, Any]] = [
    {
        "id": 7,
        "category": "x",
        "title": "x",
        "messages": [
            {
                "id": 0,
                "batch": 1,
                "role": "user",
                "text": "My launch is on April 3.",
                "time_anchor": "March-15-2024",
            },
            {"id": 1, "batch": 1, "role": "assistant", "text": "Then plan backwards from April 3. " * 30},
            {"id": 2, "batch": 2, "role": "user", "text": "The budget is now 900 euros."},
        ],
        "questions": [
            {
                "qid": "a",
                "ability": "knowledge_update",
                "question": "What is my budget?",
                "answer": "900 euros",
                "evidence_ids": [2],
            },
            {
                "qid": "b",
                "ability": "abstention",
                "question": "Who is my boss?",
                "answer": "unknown",
                "evidence_ids": [],
            },
        ],
    }
]

LONGMEMEVAL_PUBLISHED: list[dict[str, Any]] = [
    {
        "question_id": "q1_abs",
        "question_type": "temporal-reasoning",
        "question": "When did I see the comet?",
        "answer": "You never mentioned it.",
        "question_date": "2023/12/18 (Mon) 04:17",
        "haystack_session_ids": ["s1", "s1"],
        "haystack_dates": ["2023/07/12 (Wed) 10:14", "2023/07/13 (Thu) 11:00"],
        "haystack_sessions": [
            [
                {"role": "user", "content": "I saw an eclipse.", "has_answer": True},
                {"role": "assistant", "content": "!"},
            ],
            [{"role": "user", "content": "I bought a telescope."}],
        ],
    }
]

LONGMEMEVAL_SHARED: dict[str, Any] = {
    "haystacks": {
        "h": [
            {
                "session_id": "s1",
                "date": "2023/07/12 (Wed) 10:14",
                "turns": [{"turn_id": "s1#0", "role": "user", "text": "I saw an eclipse.", "has_answer": True}],
            }
        ]
    },
    "questions": [
        {
            "qid": "h:q0",
            "haystack": "h",
            "question_type": "single-session-user",
            "question": "What did I see?",
            "answer": "an eclipse",
            "question_date": "2023/12/18 (Mon) 04:17",
            "evidence_turn_ids": ["s1#0"],
        }
    ],
}


def write(folder: Path, data: object, name: str = "data.json") -> Path:
    """Store a sample as JSON, gzipped if the name says so."""
    path, raw = folder / name, json.dumps(data).encode()
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path
