"""Petzka & Sminchisescu: non-attracting regions of local minima."""
