"""Where episodes come from: task distributions, data sets, models and layers."""
