"""Ways between tilework and other software. Import a module by its own name; nothing is imported here."""
