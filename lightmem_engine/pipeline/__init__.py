"""The stages at work: who is next, what is retried, what is parked, what commits together."""
