"""Applications that use fluxy-sync. They aren't part of the package."""
