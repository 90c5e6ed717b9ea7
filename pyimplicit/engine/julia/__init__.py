"""Julia, started on first use and called by XLA itself."""
