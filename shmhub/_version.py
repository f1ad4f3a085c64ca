"""The version: the one place that says it; the build reads it here without importing anything."""

__version__ = "0.1.0"
