"""Made-up conversations of many users, from word lists: varied topics, several sessions, roles in turn."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lightmem_engine.text import num_tokens

MIN_TOKENS = 40
MESSAGES_PER_SESSION = 6
NAMES = "Anna Bruno Chen Dilara Emil Farah Goran Hana Igor Jun Kofi Lena Mateo Nadia Oskar Priya Rosa Sven Tariq Uma"
PLACES = "Lisbon Oslo Kyoto Porto Riga Leeds Accra Quito Turin Ghent Izmir Perth Lyon Graz Malmo Bergen Nantes Tartu"
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
# Per topic: things, what one does with them, what they are like.
TOPICS = {
    "cooking": (
        "sourdough lasagne curry dumplings risotto goulash paella chutney ramen focaccia",
        "baked burned served froze reheated seasoned overcooked tasted",
        "spicy salty creamy burnt fragrant bland crisp",
    ),
    "travel": (
        "ferry hostel passport suitcase tram itinerary visa campsite backpack timetable",
        "booked missed cancelled packed lost renewed postponed checked",
        "delayed crowded cheap scenic rainy overbooked quiet",
    ),
    "work": (
        "invoice deadline spreadsheet client budget printer contract meeting warehouse presentation",
        "finished delayed approved reviewed rejected drafted presented signed",
        "urgent tedious late profitable confusing routine confidential",
    ),
    "health": (
        "dentist knee allergy prescription physiotherapy vaccine migraine glasses insulin checkup",
        "examined postponed treated ignored mentioned measured scheduled paid",
        "painful mild chronic expensive better seasonal worrying",
    ),
    "music": (
        "cello concert playlist melody choir amplifier trumpet festival recording rehearsal",
        "played tuned recorded heard practised sold borrowed conducted",
        "loud gentle jazzy solemn catchy experimental improvised",
    ),
    "garden": (
        "tomatoes compost roses greenhouse hedge basil orchard shed slugs pumpkins",
        "planted watered pruned harvested moved fenced painted sowed",
        "ripe wilted sunny overgrown muddy fresh frosty",
    ),
    "sport": (
        "marathon goalkeeper racket climbing league bicycle swimming referee yoga triathlon",
        "won lost trained coached watched joined quit organised",
        "exhausting close muddy unfair thrilling slow professional",
    ),
    "home": (
        "boiler mortgage sofa dishwasher landlord carpet balcony neighbour plumber wardrobe",
        "repaired measured replaced sold cleaned insured assembled delivered",
        "broken spacious noisy leaking antique cosy drafty",
    ),
}
ASIDES = (
    "To be honest, I had not expected that at all.",
    "It took much longer than we had planned.",
    "Please remember this for the next time we talk.",
    "My brother still laughs about it whenever he visits.",
    "I would rather not do that again before the summer.",
    "Nobody else in the family knows about it yet.",
)
OFFERS = (
    "Would you like a reminder a day before?",
    "I can compare two or three options if that helps.",
    "It sounds as if you should take a short break first.",
    "Let me know how it goes, and I will note the result.",
    "If it happens again, a photo would help me to see why.",
    "Many people in your place would simply ask for a refund.",
)


@dataclass(frozen=True, slots=True)
class Saying:
    """One message of one user's session."""

    user: str
    session: str
    id: str
    role: str
    content: str

    def body(self) -> dict[str, Any]:
        """As `POST /v1/memory/add` takes it."""
        message = {"id": self.id, "role": self.role, "content": self.content}
        return {"user_id": self.user, "session_id": self.session, "messages": [message]}


def sayings(num_messages: int, num_users: int, seed: int = 0, prefix: str = "user") -> Iterator[Saying]:
    """The first message of every user, then the second of every user, and so on; each of at least `MIN_TOKENS`."""
    rng = random.Random(seed)
    topics = [rng.choice(list(TOPICS)) for _ in range(num_users)]
    for number in range(num_messages):
        turn, user = divmod(number, num_users)
        session, place = divmod(turn, MESSAGES_PER_SESSION)
        if place == 0 or rng.random() < 0.2:
            topics[user] = rng.choice(list(TOPICS))
        role = "assistant" if turn % 2 else "user"
        name = f"{prefix}{user}"
        yield Saying(name, f"s{session}", f"{name}-{turn}", role, paragraph(rng, topics[user], role))


def paragraph(rng: random.Random, topic: str, role: str) -> str:
    """Sentences on one topic, with names, places, dates and numbers."""
    said = _user_sentence if role == "user" else _assistant_sentence
    text = said(rng, topic)
    while num_tokens(text) < MIN_TOKENS:
        text = f"{text} {said(rng, topic)}"
    return text


def question(rng: random.Random) -> str:
    """Something a user may ask later."""
    things, verbs, _ = (words.split() for words in TOPICS[rng.choice(list(TOPICS))])
    name = rng.choice(NAMES.split())
    return rng.choice(
        (
            f"When was the {rng.choice(things)} in {rng.choice(PLACES.split())} {rng.choice(verbs)}?",
            f"What did {name} say about the {rng.choice(things)}?",
            f"How much did we pay for the {rng.choice(things)} last {rng.choice(DAYS.split())}?",
        )
    )


def _user_sentence(rng: random.Random, topic: str) -> str:
    things, verbs, looks = (words.split() for words in TOPICS[topic])
    first, second = rng.sample(things, 2)
    name, place, day = rng.choice(NAMES.split()), rng.choice(PLACES.split()), rng.choice(DAYS.split())
    verb, look, number = rng.choice(verbs), rng.choice(looks), rng.randint(2, 980)
    return rng.choice(
        (
            f"Last {day} {name} and I {verb} the {first} in {place}, and it was {look} for {number} minutes.",
            f"The {first} that {name} {verb} near {place} cost {number} euros, but the {second} is {look}.",
            f"I never told you that my {first} was {look} when {name} {verb} it on {1 + number % 28} May in {place}.",
            f"We {verb} a {look} {second} with {name}. {rng.choice(ASIDES)}",
        )
    )


def _assistant_sentence(rng: random.Random, topic: str) -> str:
    things, verbs, looks = (words.split() for words in TOPICS[topic])
    thing, verb, look = rng.choice(things), rng.choice(verbs), rng.choice(looks)
    name, place = rng.choice(NAMES.split()), rng.choice(PLACES.split())
    return rng.choice(
        (
            f"A {look} {thing} is common in {place}; {name} could ask there before {rng.choice(DAYS.split())} evening.",
            f"So {name} {verb} the {thing}, and about {rng.randint(2, 60)} people noticed. {rng.choice(OFFERS)}",
            f"For a {thing} like that I would plan {rng.randint(2, 14)} days. {rng.choice(OFFERS)}",
        )
    )
