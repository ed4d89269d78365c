"""Attention reductions and similarity search: reference implementations in plain torch."""
