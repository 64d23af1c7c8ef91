"""Trained nano models and their accuracy.

MODEL-DATA.pt; README.md has the table. ../trained_files.py finds a file by its name, ../trained.py opens it.
"""
