"""A suite run: what to run (`options`), against what (`discovery`), and running it (`runner`)."""
