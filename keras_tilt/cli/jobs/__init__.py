"""The work of the commands, step by step, in functions that know of no flags."""
