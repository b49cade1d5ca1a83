"""A room without a network: `build` makes the folder that others install from; `install` is the script in it."""
