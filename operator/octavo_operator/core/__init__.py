"""Pure cores of the operator: render, plan, status, autoscale. Values in, values out; time is an argument."""
