"""Servers under load: the same requests over HTTP to this server and to others, one at a time, in turns."""
