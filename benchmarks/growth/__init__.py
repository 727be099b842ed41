"""Growing networks: sf.grow against other ways, and what it predicts against what comes."""

from growth.summary import page

__all__ = ["page"]
