"""Scripts that CI runs without pytest: with the minimal install and requirements/run.txt."""
