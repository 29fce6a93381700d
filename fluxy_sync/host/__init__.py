"""What this machine gives a process: files and locks of its own, a place for a socket, secrets handed to a child."""
