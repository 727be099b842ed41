"""``python -m semiflat``."""

from semiflat.cli.app import main

main()
