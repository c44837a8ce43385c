"""Measuring: functions on a model and its inputs that return plain results. Nothing here prints."""
