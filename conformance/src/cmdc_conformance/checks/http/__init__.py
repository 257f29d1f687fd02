"""Checks of HTTP routes: authentication, validation, sessions, prompts, limits."""
