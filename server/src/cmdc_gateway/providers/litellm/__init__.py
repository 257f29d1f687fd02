"""Models that are called through litellm, which implements the APIs of many providers."""
