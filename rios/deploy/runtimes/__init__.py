"""Ways to run an application in a sandbox on this host."""
