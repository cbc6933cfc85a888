"""Pure maths on arrays: no networks, no files, no devices."""
