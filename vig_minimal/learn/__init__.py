"""Learn by doing: twelve lessons in which a person writes the equations, and is told what went wrong."""
