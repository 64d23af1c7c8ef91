"""Trained nano models, and what each reaches.

MODEL-DATA.pt; README.md has the table. ../trained_files.py finds a file by its name, ../trained.py opens it.
"""
