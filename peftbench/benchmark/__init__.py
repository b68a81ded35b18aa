"""What spans the rooms: the catalogue of everything that can be named, and the doctor."""
