"""Images to stored features: every image once, ever, per backbone and recipe."""
