"""Task distributions, data sets, models and layers for the algorithms of `maml`."""
