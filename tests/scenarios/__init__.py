"""One table of functions, inputs and independent references that every engine, batching and operator passes."""
