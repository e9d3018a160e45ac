"""The version of Prooftune, imported by modules and by the build."""

__version__ = "0.2.0"
