"""The imperative shell around the kernel: one actor per session that commits, then publishes, then acts."""
