"""Walks along the embedded set, minima at infinity, non-increasing paths to zero loss (P21)."""
