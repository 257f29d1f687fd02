"""Language models: a common interface, the providers that implement it, and the registry that finds them by name."""
