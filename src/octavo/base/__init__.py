"""Errors, units, progress and shape aliases: what every room stands on."""
