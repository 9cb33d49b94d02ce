"""Report: from the results store to a page that people read, beside the published numbers."""
