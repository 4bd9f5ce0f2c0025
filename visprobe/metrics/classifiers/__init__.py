"""Classes from features: prototypes, neighbours, linear probes, and how well their scores hold."""
