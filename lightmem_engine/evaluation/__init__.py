"""Replays published data through the engine and measures what comes back."""
