"""Twelve lessons in which you write the equations."""
