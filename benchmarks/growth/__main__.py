"""``python -m growth`` in the folder of the benchmarks."""

from growth.run import main

main()
