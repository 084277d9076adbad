"""The frozen answer, and how an outcome becomes one."""
