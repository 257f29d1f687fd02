"""Checks of what an agent does with people and tools: approvals, questions, callback tools, usage, model calls."""
