"""The tiny bundles of the bundle tests."""

from __future__ import annotations

from bundle.conftest import bundle, bundles
from exporters.conftest import make

__all__ = ["bundle", "bundles", "make"]
