"""The routes, a file for each noun. A route parses, calls one thing, and answers; it decides nothing."""
