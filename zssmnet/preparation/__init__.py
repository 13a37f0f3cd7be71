"""From one examination to one prepared case, and from prepared cases to cubes."""
