"""Pictures on axes, of numbers: what a point, a search or a path shows of itself, and the study's page."""
