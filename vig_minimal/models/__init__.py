"""One network, one file; `registry` lists every model, `released` reads weights from elsewhere."""
