"""Recipe, task, step, checkpoint, processes."""
