"""Kawaguchi et al.: gradient basis models."""
