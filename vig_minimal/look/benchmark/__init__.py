"""Cost of the graph: time, memory and parameters, beside the same network without one."""
