"""Proofs in ball arithmetic, and a checker that shares nothing with the search (docs/certificates.md)."""
