"""Records to what people read: tables, the reading in words, one self-contained page. Knows no model and no torch."""
