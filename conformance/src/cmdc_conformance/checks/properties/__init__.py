"""Property-based checks: Hypothesis draws steps, the server executes them beside a reference model of a session."""
