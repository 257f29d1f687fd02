"""What answers for the model, so that every event can be provoked."""
