"""An opened checkpoint, whatever wrapped, adapted, quantised or converted it."""
