"""Background plates: whether one fits its picture, and alignment where it does not quite."""
