"""The checks, one module a lesson: right answers, examples, known mistakes and hints.

A module has TASKS, one `Task` for each function of the lesson, and for each of them HINTS, from a nudge to nearly the
answer. The right answers are the package's definitions, called with the lesson's signature. Sentences are ASCII.
"""
