"""What is written and read again, typed: one schema, and one codec between it and JSON."""
