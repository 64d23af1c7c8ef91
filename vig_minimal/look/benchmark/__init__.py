"""What the graph costs: time, memory and parameters, beside the same network without one."""
