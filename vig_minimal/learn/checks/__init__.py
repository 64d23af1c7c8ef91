"""What the lessons are checked with: one module a lesson, with its right answers, examples, known mistakes and hints.

A module has TASKS, one `Task` for each function that the lesson asks for, and HINTS for each, from a nudge to nearly
the answer. The right answers are the package's own definitions, called with the lesson's signature. Sentences are ASCII.
"""
