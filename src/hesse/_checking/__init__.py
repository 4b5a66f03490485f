"""Whether a function's second derivatives can be had and trusted, asked before anything large is started."""
