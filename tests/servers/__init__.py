"""Real servers for tests: started on free loopback ports, stopped by their own process id."""
