"""Stage 1: messages in, topic segments out."""
