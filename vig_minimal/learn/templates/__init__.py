"""The lessons as a person gets them: one file each, its functions without bodies."""
