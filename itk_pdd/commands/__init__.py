"""The work of each command, from files to files, without click. May import everything but cli and filter."""
