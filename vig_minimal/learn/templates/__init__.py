"""The lessons as a student gets them: one file each, functions without bodies."""
