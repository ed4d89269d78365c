"""LightMem Engine: long-term memory inside the inference stack."""
