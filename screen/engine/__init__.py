"""Images in, statistics over T passes out."""
