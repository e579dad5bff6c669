"""Composes the parts into what a program uses: a model that takes text and gives text."""
