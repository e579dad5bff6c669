# make run | test | check | bench: the only commands to know.
