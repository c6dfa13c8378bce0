"""How torch calls the equations: the door that picks a path, and the Functions behind it."""
