"""Whose request it is, how often they may ask, and what they have used."""
