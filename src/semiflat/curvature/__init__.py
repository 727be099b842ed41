"""Derivatives of the risk: closed form for an MLP, matrix-free for any ``nn.Module``."""
