"""Zhang et al. 2022: the embedding principle."""
