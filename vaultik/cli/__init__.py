"""The command line: flags to calls. Only here anything is printed or exits."""
