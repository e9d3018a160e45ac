"""How good answers are: against reference answers, in meaning, and in the sources that they name."""
