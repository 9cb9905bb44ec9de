"""What tests share: commands, images, mounts, waiting, the order of tests, the tally.

``commands`` runs snapfs, mostly in forks of a process that has it imported (``forkserver``);
``images`` makes volumes and has them checked; ``mounts`` mounts them; ``waiting`` waits for a
condition, with a limit; ``sparse`` is a device in memory whose copies share pages; ``effort`` says
how many samples a test looks at, and remembers what it failed with; ``scheduling``
says which tests run side by side; ``tally`` holds operations and commits against what they had set
aside; ``probing`` asks simulations for the rare situations that they must come to, which processes
note by ``hits``.
"""
