"""Segments and measures one nodule."""
