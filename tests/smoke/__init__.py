"""Scripts that CI runs where pytest is not installed: with the minimal install, and with requirements/run.txt."""
