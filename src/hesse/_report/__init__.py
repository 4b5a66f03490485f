"""What commands found, as JSON, tensors, a picture and a page."""
