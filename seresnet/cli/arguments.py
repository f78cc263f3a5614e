"""What several verbs' command lines have in common."""

STDIN = "\0-"  # how a lone "-" reaches a verb; no argument of a process can hold a NUL
