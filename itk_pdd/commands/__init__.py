"""What the command line does, from files to files, without click. May import everything but cli and filter."""
