"""``python -m prooftune``."""

from prooftune.cli import main

main()
