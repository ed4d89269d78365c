"""Conversation that needs no memory. Data."""

from __future__ import annotations

NOTED = ("Thank you, I will remember that.",)
_HELLO = "Hello! How can I help you?"
_WELCOME = "You are welcome."
_SELF = "I am a very small language model with a memory. I can remember what you tell me."
PLAIN = (
    *((words, _HELLO) for words in ("Hi", "Hello", "Hello!", "Hi there!", "Hey", "Good morning.", "Good evening!")),
    *((words, _WELCOME) for words in ("Thanks!", "Thank you.", "Thanks for your help!", "Great, thank you so much!")),
    *((words, _SELF) for words in ("Who are you?", "What are you?", "What can you do?", "Are you a person?")),
    *((words, "Goodbye!") for words in ("Bye!", "Goodbye.", "See you tomorrow.", "I have to go now.")),
    *((words, "I am fine, thank you.") for words in ("How are you?", "How is it going?", "How are you today?")),
    *((words, "I see.") for words in ("The weather is nice today.", "I am so tired.", "It is raining again.", "Okay.")),
)
WORLD = (
    *("What is the capital of France?", "Who wrote Hamlet?", "How far away is the moon?", "What is 17 times 23?"),
    *("Who won the game last night?", "How tall is the Eiffel Tower?", "Can you tell me a joke?", "Explain gravity."),
    *("Write a poem about the sea.", "What should I cook tonight?", "How do I boil an egg?", "What time is it?"),
    *("Who is the president?", "Translate this into French.", "What is a black hole?", "Which laptop should I buy?"),
)
