"""Property tests of the data floor write files, which a busy machine does in its own time."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
