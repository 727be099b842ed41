"""Fukumizu et al. 2019: semi-flat minima and saddle points by embedding."""
