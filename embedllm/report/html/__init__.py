"""HTML: the page of all results with pictures, one file that needs no other."""
