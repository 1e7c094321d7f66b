"""The local index: what the source remembers between runs. A cache; restore never needs it."""
