"""Speech engines: text becomes sound. `engine` is the interface, `choice` finds the one for a voice; every other file with a class is one engine."""
