"""Stage 3: entries, kept and found."""
