"""Sleep-time: what later memories do to earlier ones, found out while nobody waits."""
