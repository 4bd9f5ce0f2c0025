"""Analyses by question: one file each, features in, a `Result` out, with its figure and its sentences beside it."""
