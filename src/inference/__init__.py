"""The command lines, and the documented names of functions in other packages."""
