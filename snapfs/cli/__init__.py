"""The command line: one module per command.

A command module has ``configure(parser)``, which declares its arguments, and ``run(arguments) ->
int``, which returns an exit code. What a command needs beyond the standard library it imports when
it runs.
"""
