"""Mehta, Zhao, Bernal and Wales 2018: the loss surface of networks for XOR."""
