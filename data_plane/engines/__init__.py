"""Programs and models that the data plane drives and does not own, each in one file behind a small interface."""
