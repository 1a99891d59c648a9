"""The command lines, and the documented names of what other packages do."""
