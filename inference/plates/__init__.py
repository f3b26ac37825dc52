"""Background plates: their agreement with pictures, and alignment where it is not perfect."""
