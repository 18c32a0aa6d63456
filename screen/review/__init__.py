"""Results in, what people look at and do with them out: metrics, a page, a labeling queue, what labels say."""
