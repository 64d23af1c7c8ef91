"""Pictures, pages, tables: everything that shows a model."""
