"""The checker: what a stranger reads and runs to believe a certificate.

The standard library and python-flint are all it needs, and it imports nothing from outside this folder.
"""
