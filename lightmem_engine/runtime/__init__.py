"""How work reaches a device."""
