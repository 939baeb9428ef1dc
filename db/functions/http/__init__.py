"""The HTTP client and what starts it."""
