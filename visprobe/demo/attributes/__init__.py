"""Analysis of digit-scene attributes that can be read linearly, registered with its figure like a plug-in."""
