"""A conversation of more than two thousand tokens."""

from __future__ import annotations

from typing import Any

NAMES = ("Maja", "Jonas", "Carla", "Bruno", "Elena", "Piotr")
TOWNS = ("Lisbon", "Oslo", "Denver", "Boston", "Madrid", "Krakow")


def long_conversation(rounds: int = 3) -> list[dict[str, Any]]:
    """The last word is the user's. rounds: of each message's words."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "You are a patient friend."}]
    for name, town in zip(NAMES, TOWNS, strict=True):
        more = (
            f"{name} told me on the phone that the house by the river is old, the garden is wild, the neighbours are "
            "kind, and that the kitchen window looks over the hills where the sheep stand in the evening. "
        )
        messages.append({"role": "user", "content": f"My friend {name} moved to {town} in May. " + more * rounds})
        messages.append({"role": "assistant", "content": f"I see: {town}."})
    return messages[:-1]
