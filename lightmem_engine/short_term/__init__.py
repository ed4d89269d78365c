"""Stage 2: topic segments in, memory entries out."""
