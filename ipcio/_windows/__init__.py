"""The back end for Windows: system calls."""
