"""What this CPU can do, and what its kernels cost: measured, for predictions beside measurements."""
