"""The page of `explore --html`, in which graphs are drawn and small models run."""
