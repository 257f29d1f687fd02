"""Language models: a model's chunks in, the kernel's signals out."""
