"""A trained adapter to what other libraries load: merged weights, folders, cards, uploads."""
