"""The commands, one module each: what `counterpoise COMMAND` and the function of that name do."""
